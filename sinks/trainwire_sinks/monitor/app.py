"""`trainwire watch` on a terminal."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence
from typing import ClassVar, Final

from rich.text import Text
from textual.app import App, ComposeResult
from textual.binding import BindingType
from textual.containers import Horizontal, Vertical
from textual.css.query import NoMatches
from textual.widgets import Footer, Static

from trainwire_protocol.errors import TrainwireError
from trainwire_protocol.subscription.command_client import send_command
from trainwire_sinks.monitor.curves import Style
from trainwire_sinks.monitor.dialogs import Confirmation, Page
from trainwire_sinks.monitor.keys import KEYS
from trainwire_sinks.monitor.log import LEVELS
from trainwire_sinks.monitor.metric_list import FilterField, MetricList
from trainwire_sinks.monitor.metrics import most_interesting
from trainwire_sinks.monitor.panels import details, log_text, status_text
from trainwire_sinks.monitor.plots import Plots, Shown
from trainwire_sinks.monitor.reader import Reader
from trainwire_sinks.monitor.view import View
from trainwire_sinks.text.format import number, one_line

REFRESH_SECONDS: Final = 0.5

SMOOTHINGS: Final = (0.0, 0.6, 0.9, 0.99)


class WatchApp(App[None]):
    """Shows runs as they go, and takes commands for them.

    Args:
        readers: one for each run and rank that is watched.
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
    HORIZONTAL_BREAKPOINTS = [(0, "-narrow"), (100, "-wide")]  # noqa: RUF012  # Textual declares it so
    BINDINGS: ClassVar[list[BindingType]] = list(KEYS)

    def __init__(self, readers: Sequence[Reader]) -> None:
        super().__init__()
        self.readers = list(readers)
        self.selected = 0
        """The place of the run that commands go to."""
        self.plot_style = Style()
        self.chosen: list[str] | None = None
        """The metrics that are plotted; None as long as nobody has chosen any."""
        self.log_level = LEVELS[0]

    @property
    def views(self) -> list[View]:
        """What is known of each run."""
        return [reader.view for reader in self.readers]

    @property
    def view(self) -> View:
        """The one that is selected."""
        return self.readers[self.selected].view

    def compose(self) -> ComposeResult:
        """Status, metrics and plots, log, keys."""
        yield Static(id="status")
        with Horizontal(id="body"):
            yield MetricList(id="metrics")
            yield Plots(id="plots")
        with Vertical(id="log"):
            yield Static(id="lines")
        yield FilterField(id="find", placeholder="metrics whose name holds …")
        yield FilterField(id="filter", placeholder="lines of the log that hold …")
        yield Footer(compact=True)

    def on_mount(self) -> None:
        """Begin to read."""
        self.query_one(MetricList).focus()
        for reader in self.readers:
            self.run_worker(reader.run(), exit_on_error=True)
        self.set_interval(REFRESH_SECONDS, self._keep_showing)

    def _keep_showing(self) -> None:
        # When the app closes, its widgets go before its timers.
        with contextlib.suppress(NoMatches):
            self.show()

    def show(self) -> None:
        """Bring everything on the screen up to date."""
        self.query_one("#status", Static).update(status_text(self.views, self.selected, self.size.width - 2))
        self._show_metrics()
        self._show_log()
        self._show_plots()

    def _show_metrics(self) -> None:
        wanted = self.query_one("#find", FilterField).value.lower()
        rows = [
            (name, number(series.latest))
            for name, series in self.view.metrics.series.items()
            if wanted in name.lower() and series.latest is not None
        ]
        metrics = self.query_one(MetricList)
        metrics.show(rows, frozenset(self._plotted()))
        facts = [f"{len(rows):,} metrics" + (f" with {one_line(wanted)}" if wanted else "")]
        facts += ["more are left out"] if self.view.metrics.left_out else []
        hidden = len(self._plotted()) - self.query_one(Plots).room()
        facts += [f"{hidden} plot{'s' * (hidden > 1)} hidden"] if hidden > 0 else []
        metrics.border_title = Text(", ".join(facts))

    def _show_log(self) -> None:
        pane, lines = self.query_one("#log"), self.query_one("#lines", Static)
        height = max(1, pane.content_size.height)
        wanted = self.query_one("#filter", FilterField).value
        lines.update(log_text(self.view.log.matching(wanted, self.log_level)[-height:]))
        filters = [f"with {one_line(wanted)}"] if wanted else []
        filters += [f"{self.log_level} and above"] if self.log_level != LEVELS[0] else []
        pane.border_title = Text(" ".join(["log", *filters]))

    def _show_plots(self) -> None:
        plots = self.query_one(Plots)
        names = self._plotted()
        fitting = names[: plots.room()]
        for name, plot in zip(fitting, plots.lay_out(len(fitting)), strict=True):
            plot.show(name, self._series_of(name), self.plot_style)

    def _plotted(self) -> list[str]:
        """The metrics that are plotted: those chosen, or some that are probably wanted."""
        known = dict.fromkeys(name for view in self.views for name in view.metrics.series)
        if self.chosen is None:
            return most_interesting(known, min(4, self.query_one(Plots).room()))
        return [name for name in self.chosen if name in known]

    def _series_of(self, name: str) -> list[Shown]:
        return [
            Shown(view.label, place, view.metrics.series[name])
            for place, view in enumerate(self.views)
            if name in view.metrics.series
        ]

    def on_metric_list_chosen(self, message: MetricList.Chosen) -> None:
        """Plot a metric, or no longer."""
        chosen = self._plotted()
        self.chosen = [name for name in chosen if name != message.name]
        if message.name not in chosen:
            self.chosen.append(message.name)
        self.show()

    def action_choose(self) -> None:
        """Plot the metric at the cursor, or no longer."""
        self.query_one(MetricList).action_choose()

    def action_smooth(self) -> None:
        """Smooth the curves more, or not at all."""
        following = SMOOTHINGS[(SMOOTHINGS.index(self.plot_style.smoothing) + 1) % len(SMOOTHINGS)]
        self.plot_style = Style(following, self.plot_style.is_log)
        self.show()

    def action_log_axis(self) -> None:
        """Turn to a logarithmic axis of values, or back."""
        self.plot_style = Style(self.plot_style.smoothing, not self.plot_style.is_log)
        self.show()

    def action_level(self) -> None:
        """Show only lines of the next level and above."""
        self.log_level = LEVELS[(LEVELS.index(self.log_level) + 1) % len(LEVELS)]
        self.show()

    def action_next_run(self) -> None:
        """Turn to the next of the runs."""
        self.selected = (self.selected + 1) % len(self.readers)
        self.show()

    def action_filter_metrics(self) -> None:
        """Ask for the text that the names of metrics have to hold."""
        self.query_one("#find", FilterField).open()

    def action_filter_log(self) -> None:
        """Ask for the text that lines of the log have to hold."""
        self.query_one("#filter", FilterField).open()

    def on_input_changed(self) -> None:
        """Filter while it is typed."""
        self.show()

    def on_input_submitted(self) -> None:
        """Leave the field, and keep the filter."""
        for field in self.query(FilterField):
            field.close()
        self.query_one(MetricList).focus()

    def action_clear(self) -> None:
        """Clear the filter that is typed, or all of them."""
        fields = list(self.query(FilterField))
        is_typed = [field for field in fields if field.is_open]
        for field in is_typed or fields:
            field.value = ""
        if not is_typed:
            self.log_level = LEVELS[0]
        self.on_input_submitted()
        self.show()

    def action_help(self) -> None:
        """Tell what the keys do."""
        lines = [f"{key.key_display or key.key:<6} {key.tooltip or key.description}" for key in KEYS]
        self.push_screen(Page("keys", lines))

    def action_details(self) -> None:
        """Tell all alerts and sinks of the run."""
        self.push_screen(Page(one_line(self.view.label), details(self.view, time.time())))

    def action_command(self, verb: str) -> None:
        """Ask whether a command is really to be sent, and send it."""
        reader = self.readers[self.selected]

        def answered(is_wanted: bool | None) -> None:
            if is_wanted:
                self.run_worker(self._send(reader, verb))

        self.push_screen(Confirmation(f"{verb.capitalize()} {one_line(reader.view.label)}?"), answered)

    async def _send(self, reader: Reader, verb: str) -> None:
        what = f"{verb} {one_line(reader.view.label)}"
        try:
            is_done = await send_command(reader.target, verb, rank=reader.rank)
        except TrainwireError as error:
            self.notify(f"{what}: {one_line(str(error))}", severity="error", markup=False)
        else:
            self.notify(f"{what}: {'done' if is_done else 'handed in, not answered yet'}", markup=False)
