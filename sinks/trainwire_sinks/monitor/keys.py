"""The keys of `trainwire watch`."""

from __future__ import annotations

from typing import Final

from textual.binding import Binding

KEYS: Final = [
    Binding("q", "quit", "Quit", tooltip="Quit; the trainings go on"),
    Binding("question_mark", "help", "Keys", key_display="?", tooltip="Tell what the keys do"),
    Binding("space", "choose", "Plot", tooltip="Plot the metric at the cursor, or no longer", show=False),
    Binding("slash", "filter_metrics", "Find", key_display="/", tooltip="Show only metrics whose name holds some text"),
    Binding("s", "smooth", "Smooth", tooltip="Smooth the curves by 0.6, 0.9, 0.99, or not"),
    Binding("l", "log_axis", "Log axis", tooltip="Logarithmic axis of values, or linear"),
    Binding("f", "filter_log", "Filter", tooltip="Show only lines of the log that hold some text"),
    Binding("v", "level", "Level", tooltip="Show only lines of the log of the next level and above"),
    Binding("n", "next_run", "Next", tooltip="Turn to the next of the runs and ranks that are watched", show=False),
    Binding("a", "details", "Alerts", tooltip="Tell all alerts and sinks of the run"),
    Binding("S", "command('stop')", "Stop", tooltip="Stop the training after its step; asks first"),
    Binding("C", "command('checkpoint')", "Save", tooltip="Save a checkpoint after the step; asks first"),
    Binding("E", "command('evaluate')", "Eval", tooltip="Evaluate the watched splits after the step; asks first"),
    Binding(
        "escape", "clear", "Clear", tooltip="Leave the field and clear its filter; outside it, all filters", show=False
    ),
]
"""Each key, what it does, and the words for it; docs/watch.md has them as a table."""
