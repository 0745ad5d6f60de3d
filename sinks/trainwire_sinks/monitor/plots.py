"""The plots of the terminal app: one for each plotted metric, with a curve for each run."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Final, NamedTuple

from rich.text import Text
from textual.app import RenderResult
from textual.containers import Grid
from textual_plotext import PlotextPlot

from trainwire_sinks.monitor.curves import Curve, Style, height_ticks, limits, make_curve, step_ticks
from trainwire_sinks.monitor.series import Series
from trainwire_sinks.text.format import number, one_line

COLORS: Final = ((94, 196, 255), (255, 167, 38), (129, 212, 94), (240, 98, 146), (186, 147, 255), (255, 238, 88))
"""The colors of the runs, in order; they repeat if there are more runs."""

BAND_COLOR: Final = (110, 110, 110)

DRAW_SECONDS: Final = 1.0
"""Shortest interval between two drawings of a plot whose series grow."""

MIN_WIDTH: Final = 36
MIN_HEIGHT: Final = 8
"""Smallest size of a plot in the grid, in cells."""


class Trace(NamedTuple):
    """One run's series of a metric."""

    label: str
    run: int
    """Number of the run among those watched; it determines the color."""
    series: Series


class MetricPlot(PlotextPlot):
    """The plot of one metric of one or several runs."""

    DEFAULT_CSS = "MetricPlot { border-top: solid $primary; }"

    def __init__(self) -> None:
        super().__init__()
        self._curves: list[tuple[Trace, Curve]] = []
        self._style = Style()
        self._settings: object = None
        self._versions: object = None
        self._next_drawing = 0.0

    def show(self, name: str, traces: Sequence[Trace], style: Style) -> None:
        """Show a metric; it is drawn again only if something has changed."""
        settings = (name, style, self.size)
        versions = [(id(trace.series), trace.series.version) for trace in traces]
        # One drawing takes as long as reading ten thousand events.
        is_due = time.monotonic() >= self._next_drawing and versions != self._versions
        if settings == self._settings and not is_due:
            return
        self._settings, self._versions, self._style = settings, versions, style
        self._next_drawing = time.monotonic() + DRAW_SECONDS
        curves = [(trace, make_curve(trace.series, style, 2 * self.size.width)) for trace in traces]
        self._curves = [(trace, curve) for trace, curve in curves if curve.steps]
        is_cut = any(curve.left_out for _, curve in curves)
        self.border_title = Text("  ".join([one_line(name), *_facts(traces, style, is_cut=is_cut)]))
        self.refresh()

    def render(self) -> RenderResult:
        """Draw the plot at its current size."""
        if self.size.width < 16 or self.size.height < 4:
            return Text("")
        if not self._curves:
            return Text("no positive value to show on a log axis" if self._style.is_log else "no finite value yet")
        self._draw_curves()
        return super().render()

    def _draw_curves(self) -> None:
        plot = self.plt
        plot.clear_figure()
        self._draw_axes([curve for _, curve in self._curves])
        is_single = len(self._curves) == 1
        if is_single:
            (_, curve), *_ = self._curves
            for edge in filter(None, (curve.lows, curve.highs)):
                plot.plot(curve.steps, edge, marker="braille", color=BAND_COLOR)
        for trace, curve in self._curves:
            label = None if is_single else f" {one_line(trace.label)[:20]}"
            color = COLORS[trace.run % len(COLORS)]
            plot.plot(curve.steps, curve.heights, marker="braille", color=color, label=label)

    def _draw_axes(self, curves: Sequence[Curve]) -> None:
        plot, is_log = self.plt, self._style.is_log
        steps = [step for curve in curves for step in curve.steps]
        left, right = (min(steps), max(steps)) if min(steps) < max(steps) else limits(steps)
        low, high = limits(
            height for curve in curves for heights in (curve.heights, curve.lows, curve.highs) for height in heights
        )
        plot.xlim(left, right)
        plot.ylim(low, high)
        plot.xticks(*step_ticks(left, right, max(2, self.size.width // 16)))
        plot.yticks(*height_ticks(low, high, max(3, self.size.height // 3), is_log=is_log))


def _facts(traces: Sequence[Trace], style: Style, *, is_cut: bool) -> list[str]:
    """Return what is shown after a metric's name."""
    non_finite = sum(trace.series.not_finite for trace in traces)
    facts = [", ".join(number(trace.series.latest) for trace in traces if trace.series.latest is not None)]
    facts += [f"{non_finite:,} not finite"] if non_finite else []
    facts += [f"smoothed {style.smoothing:g}"] if style.smoothing else []
    facts += ["log"] if style.is_log else []
    return facts + (["some not positive"] if is_cut else [])


class Plots(Grid):
    """A grid of as many plots as fit."""

    DEFAULT_CSS = "Plots { width: 1fr; height: 1fr; margin-left: 1; grid-gutter: 0 1; }"

    def __init__(self, id: str) -> None:
        super().__init__(id=id)
        self._plots: list[MetricPlot] = []

    @property
    def capacity(self) -> int:
        """Number of plots that fit."""
        columns, rows = self._most_columns_and_rows()
        return columns * rows

    def lay_out(self, count: int) -> list[MetricPlot]:
        """Create or remove plots so that there are `count`, lay them out in full rows, and return them."""
        while len(self._plots) > count:
            self._plots.pop().remove()
        new = [MetricPlot() for _ in range(count - len(self._plots))]
        if new:
            self._plots += new
            self.mount_all(new)
        # As few columns as the height of a plot permits, but two for three plots or more where they fit.
        most_columns, most_rows = self._most_columns_and_rows()
        columns = max(1, min(most_columns, max(-(-count // most_rows), 2 if count > 2 else 1)))
        self.styles.grid_size_columns = columns
        for plot in self._plots:
            plot.styles.column_span = 1
        if self._plots:
            self._plots[-1].styles.column_span = columns - (count - 1) % columns
        return self._plots

    def _most_columns_and_rows(self) -> tuple[int, int]:
        return max(1, self.size.width // MIN_WIDTH), max(1, self.size.height // MIN_HEIGHT)
