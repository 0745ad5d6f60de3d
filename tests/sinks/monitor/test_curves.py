"""What plots show is finite and drawable, whatever was recorded."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainwire_protocol.wire import Cursor
from trainwire_sinks.monitor.curves import Style, height_ticks, limits, make_curve, step_ticks
from trainwire_sinks.monitor.series import Series

FINITE = st.floats(allow_nan=False, allow_infinity=False)


def series_of(numbers: list[float]) -> Series:
    series = Series()
    for step, value in enumerate(numbers):
        series.add([step], [value], Cursor(0, step))
    return series


@given(st.lists(st.floats(), max_size=40), st.sampled_from([0.0, 0.6, 0.99]), st.booleans())
def test_axes_include_all_values(numbers: list[float], smoothing: float, is_log: bool) -> None:
    """All heights are finite and within the limits, and ticks have labels."""
    curve = make_curve(series_of(numbers), Style(smoothing, is_log), 20)
    heights = [*curve.heights, *curve.lows, *curve.highs]
    assert all(map(math.isfinite, heights))
    if heights:
        low, high = limits(heights)
        assert math.isfinite(high - low)
        assert low <= min(heights) <= max(heights) < high
        ticks = height_ticks(low, high, 5, is_log=is_log)
        assert len(ticks.positions) == len(ticks.labels) >= 2


@given(FINITE, FINITE)
def test_step_ticks_are_integers(low: float, high: float) -> None:
    """Ticks of steps are distinct integers."""
    low, high = sorted((low / 2, high / 2))
    positions = step_ticks(low, high, 4).positions
    assert positions == sorted({float(round(place)) for place in positions})


def test_a_log_axis_leaves_out_values_that_are_not_positive() -> None:
    """Values that are not positive are left out and counted; the others are drawn at their logarithms."""
    curve = make_curve(series_of([0.0, -1.0, 1.0, 1000.0]), Style(is_log=True), 20)
    assert (curve.heights, curve.left_out) == (pytest.approx([0.0, 3.0]), 2)
    assert height_ticks(-0.1, 3.1, 6, is_log=True).labels == ["1", "10", "100", "1000"]


@pytest.mark.parametrize(
    ("values", "labels"),
    [
        ([0.012, 2.31], ["0", "0.5", "1", "1.5", "2"]),
        ([-3.0, 14.0], ["0", "5", "10"]),
        ([0.1, 0.3], ["0.1", "0.15", "0.2", "0.25", "0.3"]),
        ([990.0, 1000.0], ["990", "995", "1000"]),
        ([1e-7, 9e-7], ["2e-07", "4e-07", "6e-07", "8e-07"]),
    ],
)
def test_ticks_are_round_values(values: list[float], labels: list[str]) -> None:
    """The ticks of a linear axis are multiples of 1, 2 or 5 times a power of ten."""
    assert height_ticks(*limits(values), 5, is_log=False).labels == labels


def test_step_ticks_are_round() -> None:
    """The steps 1 to 937 have ticks at 200, 400 and so on."""
    assert step_ticks(1, 937, 5).labels == ["200", "400", "600", "800"]


def test_the_axis_of_a_positive_metric_is_not_negative() -> None:
    """A loss that approaches zero is drawn on an axis that begins at zero."""
    assert limits([0.001, 2.0])[0] == 0.0
    assert limits([-0.001, 2.0])[0] < -0.001


def test_a_small_learning_rate_is_legible() -> None:
    """A tick at 5e-5 is not rounded to 0.0001."""
    low, high = limits([5e-5])
    assert "5e-05" in height_ticks(low, high, 3, is_log=False).labels


def test_smoothing_of_the_smallest_values_is_drawn_on_a_log_axis() -> None:
    """Values whose average is rounded to zero keep a finite height."""
    curve = make_curve(series_of([5e-324, 5e-324, 1.0]), Style(0.99, is_log=True), 20)
    assert all(map(math.isfinite, curve.heights))


def test_smoothed_curves_have_a_band() -> None:
    """A smoothed curve is shown with the range of its values; a curve of single values has no band."""
    series = series_of([1.0, 2.0])
    assert make_curve(series, Style(), 20).lows == []
    assert make_curve(series, Style(0.6), 20).highs == [1.0, 2.0]
