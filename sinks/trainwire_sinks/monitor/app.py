"""The terminal app of `trainwire watch`."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence
from typing import ClassVar, Final

from rich.text import Text
from textual.app import App, ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical
from textual.css.query import NoMatches
from textual.widgets import Footer, Static

from trainwire_protocol.errors import TrainwireError
from trainwire_protocol.subscription.command_client import send_command
from trainwire_sinks.monitor.curves import Style
from trainwire_sinks.monitor.log import LEVELS
from trainwire_sinks.monitor.metrics import most_interesting
from trainwire_sinks.monitor.panels import details, log_text, status_text
from trainwire_sinks.monitor.plots import Plots, Trace
from trainwire_sinks.monitor.reader import Reader
from trainwire_sinks.monitor.view import View
from trainwire_sinks.monitor.widgets import Confirmation, FilterField, MetricList, Page
from trainwire_sinks.text.format import number, one_line

REFRESH_SECONDS: Final = 0.5

SMOOTHINGS: Final = (0.0, 0.6, 0.9, 0.99)

DEFAULT_PLOTS: Final = 4
"""Metrics that are plotted until the user selects some."""

KEYS: Final = [
    Binding("q", "quit", "Quit", tooltip="Quit; the training continues"),
    Binding("question_mark", "help", "Keys", key_display="?", tooltip="Show the keys"),
    Binding("space", "toggle_plot", "Plot", tooltip="Plot the metric at the cursor, or remove its plot", show=False),
    Binding("slash", "filter_metrics", "Find", key_display="/", tooltip="Show only metrics whose names contain a text"),
    Binding("s", "smooth", "Smooth", tooltip="Set the smoothing of the curves to 0.6, 0.9, 0.99 or none"),
    Binding("l", "log_axis", "Log axis", tooltip="Switch between a logarithmic and a linear value axis"),
    Binding("f", "filter_log", "Filter", tooltip="Show only log lines that contain a text"),
    Binding("v", "level", "Level", tooltip="Show only log lines of the next level and above"),
    Binding("n", "next_run", "Next", tooltip="Select the next run or rank", show=False),
    Binding("a", "details", "Alerts", tooltip="Show all alerts and sinks of the run"),
    Binding("S", "command('stop')", "Stop", tooltip="Stop the training after the current step, once confirmed"),
    Binding("C", "command('checkpoint')", "Save", tooltip="Save a checkpoint after the current step, once confirmed"),
    Binding(
        "E", "command('evaluate')", "Eval", tooltip="Evaluate the watched splits after the current step, once confirmed"
    ),
    Binding(
        "escape", "clear", "Clear", tooltip="Close the field and clear its filter; without a field, clear all filters",
        show=False,
    ),
]  # fmt: skip
"""The keys, each with its description, which is the same in docs/watch.md."""


class WatchApp(App[None]):
    """Shows runs while they are recorded, and sends commands to them.

    Args:
        readers: one for each run and rank to watch.
    """

    TITLE = "trainwire watch"
    ENABLE_COMMAND_PALETTE = False
    CSS = """
    #status { height: auto; max-height: 40%; padding: 0 1; }
    #body { height: 1fr; }
    #metrics { width: 34; border-top: solid $primary; }
    #log { height: 25%; min-height: 4; padding: 0 1; border-top: solid $primary; }
    #lines { text-wrap: nowrap; text-overflow: ellipsis; }
    .-narrow #metrics { width: 30; }
    """
    HORIZONTAL_BREAKPOINTS = [(0, "-narrow"), (100, "-wide")]  # noqa: RUF012  # as Textual declares it
    BINDINGS: ClassVar[list[BindingType]] = list(KEYS)

    def __init__(self, readers: Sequence[Reader]) -> None:
        super().__init__()
        self.readers = list(readers)
        self.selected = 0
        """Index of the run whose details are shown, and to which commands are sent."""
        self.plot_style = Style()
        self.chosen: list[str] | None = None
        """The metrics that the user has selected for plotting; None before the first selection."""
        self.log_level = LEVELS[0]

    @property
    def views(self) -> list[View]:
        """The views of all runs."""
        return [reader.view for reader in self.readers]

    @property
    def view(self) -> View:
        """The view of the selected run."""
        return self.readers[self.selected].view

    def compose(self) -> ComposeResult:
        """Yield status, metrics and plots, log and keys."""
        yield Static(id="status")
        with Horizontal(id="body"):
            yield MetricList(id="metrics")
            yield Plots(id="plots")
        with Vertical(id="log"):
            yield Static(id="lines")
        yield FilterField(id="find", placeholder="metrics whose names contain …")
        yield FilterField(id="filter", placeholder="log lines that contain …")
        yield Footer(compact=True)

    def on_mount(self) -> None:
        """Start reading."""
        self.query_one(MetricList).focus()
        for reader in self.readers:
            self.run_worker(reader.run(), exit_on_error=True)
        self.set_interval(REFRESH_SECONDS, self._refresh_unless_closing)

    def _refresh_unless_closing(self) -> None:
        # When the app closes, its widgets are removed before its timers.
        with contextlib.suppress(NoMatches):
            self.show()

    def show(self) -> None:
        """Update everything on the screen."""
        self.query_one("#status", Static).update(status_text(self.views, self.selected, self.size.width - 2))
        self._show_metrics()
        self._show_log()
        self._show_plots()

    def _show_metrics(self) -> None:
        text = self.query_one("#find", FilterField).value.lower()
        rows = [
            (name, number(series.latest))
            for name, series in self.view.metrics.series.items()
            if text in name.lower() and series.latest is not None
        ]
        metrics, (plotted, hidden) = self.query_one(MetricList), self._plotted_and_hidden()
        metrics.show(rows, frozenset(plotted), frozenset(hidden))
        facts = [f"{len(rows):,} metrics" + (f" with {one_line(text)}" if text else "")]
        facts += ["more are left out"] if self.view.metrics.left_out else []
        facts += [f"{len(hidden)} plot{'s' * (len(hidden) > 1)} hidden"] if hidden else []
        metrics.border_title = Text(", ".join(facts))

    def _show_log(self) -> None:
        pane, lines = self.query_one("#log"), self.query_one("#lines", Static)
        height = max(1, pane.content_size.height)
        text = self.query_one("#filter", FilterField).value
        lines.update(log_text(self.view.log.matching(text, self.log_level)[-height:]))
        filters = [f"with {one_line(text)}"] if text else []
        filters += [f"{self.log_level} and above"] if self.log_level != LEVELS[0] else []
        pane.border_title = Text(" ".join(["log", *filters]))

    def _show_plots(self) -> None:
        names, _ = self._plotted_and_hidden()
        for name, plot in zip(names, self.query_one(Plots).lay_out(len(names)), strict=True):
            traces = [
                Trace(view.label, run, view.metrics.series[name])
                for run, view in enumerate(self.views)
                if name in view.metrics.series
            ]
            plot.show(name, traces, self.plot_style)

    def _plotted_and_hidden(self) -> tuple[list[str], list[str]]:
        """Return the metrics that are plotted, and those that are selected but whose plots do not fit.

        The last ones selected are plotted, or the most interesting ones if the user has selected none.
        """
        known = dict.fromkeys(name for view in self.views for name in view.metrics.series)
        capacity = self.query_one(Plots).capacity
        if self.chosen is None:
            return most_interesting(known, min(DEFAULT_PLOTS, capacity)), []
        names = [name for name in self.chosen if name in known]
        return names[-capacity:], names[:-capacity]

    def on_metric_list_toggled(self, message: MetricList.Toggled) -> None:
        """Plot a metric, or remove its plot; a hidden plot is shown."""
        plotted, hidden = self._plotted_and_hidden()
        self.chosen = [name for name in (*hidden, *plotted) if name != message.name]
        if message.name not in plotted:
            self.chosen.append(message.name)
        self.show()

    def action_toggle_plot(self) -> None:
        """Plot the metric at the cursor, or remove its plot."""
        self.query_one(MetricList).action_toggle_plot()

    def action_smooth(self) -> None:
        """Smooth the curves by the next weight."""
        following = SMOOTHINGS[(SMOOTHINGS.index(self.plot_style.smoothing) + 1) % len(SMOOTHINGS)]
        self.plot_style = Style(following, self.plot_style.is_log)
        self.show()

    def action_log_axis(self) -> None:
        """Switch between a logarithmic and a linear value axis."""
        self.plot_style = Style(self.plot_style.smoothing, not self.plot_style.is_log)
        self.show()

    def action_level(self) -> None:
        """Show only log lines of the next level and above."""
        self.log_level = LEVELS[(LEVELS.index(self.log_level) + 1) % len(LEVELS)]
        self.show()

    def action_next_run(self) -> None:
        """Select the next run or rank."""
        self.selected = (self.selected + 1) % len(self.readers)
        self.show()

    def action_filter_metrics(self) -> None:
        """Open the field for the text that names of metrics must contain."""
        self.query_one("#find", FilterField).open()

    def action_filter_log(self) -> None:
        """Open the field for the text that log lines must contain."""
        self.query_one("#filter", FilterField).open()

    def on_input_changed(self) -> None:
        """Apply a filter while it is typed."""
        self.show()

    def on_input_submitted(self) -> None:
        """Close the fields and keep their filters."""
        for field in self.query(FilterField):
            field.close()
        self.query_one(MetricList).focus()

    def action_clear(self) -> None:
        """Close the open field and clear its filter, or clear all filters if no field is open."""
        fields = list(self.query(FilterField))
        open_fields = [field for field in fields if field.is_open]
        for field in open_fields or fields:
            field.value = ""
        if not open_fields:
            self.log_level = LEVELS[0]
        self.on_input_submitted()
        self.show()

    def action_help(self) -> None:
        """Show the keys."""
        lines = [f"{key.key_display or key.key:<6} {key.tooltip or key.description}" for key in KEYS]
        self.push_screen(Page("keys", lines))

    def action_details(self) -> None:
        """Show all alerts and sinks of the run."""
        self.push_screen(Page(one_line(self.view.label), details(self.view, time.time())))

    def action_command(self, verb: str) -> None:
        """Send a command to the selected run, once the user has confirmed it."""
        reader = self.readers[self.selected]
        if reader.attempt is not None:
            self.notify("an attempt is shown, not the run: watch the run to send commands", severity="warning")
            return

        def on_answer(is_confirmed: bool | None) -> None:
            if is_confirmed:
                self.run_worker(self._send(reader, verb))

        self.push_screen(Confirmation(f"{verb.capitalize()} {one_line(reader.view.label)}?"), on_answer)

    async def _send(self, reader: Reader, verb: str) -> None:
        command = f"{verb} {one_line(reader.view.label)}"
        try:
            is_applied = await send_command(reader.target, verb, rank=reader.rank)
        except TrainwireError as error:
            self.notify(f"{command}: {one_line(str(error))}", severity="error", markup=False)
        else:
            outcome = "applied" if is_applied else "submitted; see the log for its outcome"
            self.notify(f"{command}: {outcome}", markup=False)
