"""The keys of `trainwire watch`."""

from __future__ import annotations

from typing import Final

from textual.binding import Binding

KEYS: Final = [
    Binding("q", "quit", "Quit"),
    Binding("question_mark", "help", "Keys"),
    Binding("space", "app.choose", "Plot", tooltip="Plot the metric at the cursor, or no longer"),
    Binding("slash", "filter_metrics", "Find", tooltip="Show only metrics whose name holds some text"),
    Binding("s", "smooth", "Smooth", tooltip="Smooth the curves: not, 0.6, 0.9, 0.99"),
    Binding("l", "log_axis", "Log axis", tooltip="Logarithmic axis of values, or linear"),
    Binding("f", "filter_log", "Filter log", tooltip="Show only lines of the log that hold some text"),
    Binding("v", "level", "Level", tooltip="Least level of the lines of the log"),
    Binding("n", "next_run", "Next run", tooltip="Turn to the next of the runs and ranks that are watched"),
    Binding("a", "details", "Alerts", tooltip="All alerts and sinks"),
    Binding("S", "command('stop')", "Stop", tooltip="Stop the training after its step; asks first"),
    Binding("C", "command('checkpoint')", "Checkpoint", tooltip="Save a checkpoint; asks first"),
    Binding("E", "command('evaluate')", "Evaluate", tooltip="Evaluate the watched splits; asks first"),
    Binding("escape", "clear", "Clear", tooltip="Leave the filter, or clear it"),
]
"""Each key, what it does, and the words for it; docs/watch.md has them as a table."""
