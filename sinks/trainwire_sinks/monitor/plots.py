"""The plots: one for each chosen metric, with a curve for each run."""

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

COLOURS: Final = ((94, 196, 255), (255, 167, 38), (129, 212, 94), (240, 98, 146), (186, 147, 255), (255, 238, 88))
"""Of the runs, in their order; they begin again when there are more."""

BAND: Final = (110, 110, 110)

DRAW_SECONDS: Final = 1.0
"""A plot whose series grow is drawn so often."""

LEAST_WIDTH, LEAST_HEIGHT = 36, 8
"""Of a plot, in cells."""


class Shown(NamedTuple):
    """One run's series of a metric."""

    label: str
    colour: int
    """The run's place among all that are watched."""
    series: Series


class MetricPlot(PlotextPlot):
    """One metric, of one run or of several."""

    DEFAULT_CSS = "MetricPlot { border-top: solid $primary; }"

    def __init__(self) -> None:
        super().__init__()
        self._curves: list[tuple[Shown, Curve]] = []
        self._style = Style()
        self._what: object = None
        self._versions: object = None
        self._next = 0.0

    def show(self, name: str, shown: Sequence[Shown], style: Style) -> None:
        """Show a metric, if anything has changed since it was last drawn."""
        what = (name, style, self.size)
        versions = [(id(one.series), one.series.version) for one in shown]
        # Drawing takes as long as reading ten thousand events.
        is_due = time.monotonic() >= self._next and versions != self._versions
        if what == self._what and not is_due:
            return
        self._what, self._versions, self._style = what, versions, style
        self._next = time.monotonic() + DRAW_SECONDS
        drawn = [(one, make_curve(one.series, style, 2 * self.size.width)) for one in shown]
        self._curves = [(one, curve) for one, curve in drawn if curve.steps]
        left_out = sum(curve.left_out for _, curve in drawn)
        self.border_title = Text("  ".join([one_line(name), *_facts(shown, style, left_out)]))
        self.refresh()

    def render(self) -> RenderResult:
        """Draw it at its present size."""
        if self.size.width < 16 or self.size.height < 4:
            return Text("")
        if not self._curves:
            return Text("nothing above 0 to show on a log axis" if self._style.is_log else "no finite value yet")
        self._draw(self._curves)
        return super().render()

    def _draw(self, curves: Sequence[tuple[Shown, Curve]]) -> None:
        plot = self.plt
        plot.clear_figure()
        self._draw_axes([curve for _, curve in curves])
        is_only = len(curves) == 1
        for _, curve in curves:
            for edge in (curve.lows, curve.highs) if is_only else ():
                if edge:
                    plot.plot(curve.steps, edge, marker="braille", color=BAND)
        for one, curve in curves:
            label = None if is_only else f" {one_line(one.label)[:20]}"
            colour = COLOURS[one.colour % len(COLOURS)]
            plot.plot(curve.steps, curve.heights, marker="braille", color=colour, label=label)

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


def _facts(shown: Sequence[Shown], style: Style, left_out: int) -> list[str]:
    """What is said beside a metric's name."""
    odd = sum(one.series.not_finite for one in shown)
    facts = [", ".join(number(one.series.latest) for one in shown if one.series.latest is not None)]
    facts += [f"{odd:,} not finite"] if odd else []
    facts += [f"smoothed {style.smoothing:g}"] if style.smoothing else []
    facts += ["log"] if style.is_log else []
    return facts + (["some not above 0"] if left_out else [])


class Plots(Grid):
    """As many plots as fit."""

    DEFAULT_CSS = "Plots { width: 1fr; height: 1fr; margin-left: 1; grid-gutter: 0 1; }"

    def __init__(self, id: str) -> None:
        super().__init__(id=id)
        self._plots: list[MetricPlot] = []

    def room(self) -> int:
        """How many plots fit."""
        return max(1, self.size.width // LEAST_WIDTH) * max(1, self.size.height // LEAST_HEIGHT)

    def lay_out(self, count: int) -> list[MetricPlot]:
        """Have so many plots, in rows that are filled."""
        while len(self._plots) > count:
            self._plots.pop().remove()
        new = [MetricPlot() for _ in range(count - len(self._plots))]
        if new:
            self._plots += new
            self.mount_all(new)
        columns = self._columns(count)
        self.styles.grid_size_columns = columns
        for plot in self._plots:
            plot.styles.column_span = 1
        if self._plots:
            self._plots[-1].styles.column_span = columns - (count - 1) % columns
        return self._plots

    def _columns(self, count: int) -> int:
        """How many columns so many plots need, so that each is high enough; two at least where there is room."""
        widest = max(1, self.size.width // LEAST_WIDTH)
        highest = max(1, self.size.height // LEAST_HEIGHT)
        return max(1, min(widest, max(-(-count // highest), 2 if count > 2 else 1)))
