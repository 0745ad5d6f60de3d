"""Computes what a plot shows: curves, axis limits and ticks."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from trainwire_sinks.monitor.series import Series, smooth

MAX_HEIGHT: Final = 1e300
"""Larger values are drawn at this height, as the difference between two heights must be finite."""


@dataclass(frozen=True)
class Style:
    """The style in which series are shown."""

    smoothing: float = 0.0
    """Weight of the previous average, from 0 (no smoothing) to below 1."""
    is_log: bool = False
    """Whether the value axis is logarithmic."""


@dataclass(frozen=True)
class Curve:
    """One series as it is drawn; on a logarithmic axis, heights are decimal logarithms."""

    steps: list[float]
    heights: list[float]
    lows: list[float]
    """Minimum of the values that each point stands for; empty if each is one value and there is no smoothing."""
    highs: list[float]
    """Maximum of these values, or empty."""
    left_out: int
    """Number of points that are not positive and thus not on a logarithmic axis."""


class Ticks(NamedTuple):
    """Positions on an axis, and their labels."""

    positions: list[float]
    labels: list[str]


def make_curve(series: Series, style: Style, points: int) -> Curve:
    """Return a series as a curve of at most about `points` points."""
    buckets = series.buckets(points)
    shown = [bucket for bucket in buckets if bucket.mean > 0] if style.is_log else buckets
    means = [bucket.mean for bucket in shown]
    # On a logarithmic axis, the band begins at the mean if the minimum is not positive.
    lows = [bucket.mean if style.is_log and bucket.low <= 0 else bucket.low for bucket in shown]
    has_band = style.smoothing > 0 or any(bucket.values > 1 for bucket in shown)
    return Curve(
        [bucket.step for bucket in shown],
        _heights(smooth(means, style.smoothing) if style.smoothing else means, style),
        _heights(lows, style) if has_band else [],
        _heights([bucket.high for bucket in shown], style) if has_band else [],
        len(buckets) - len(shown),
    )


def limits(values: Iterable[float]) -> tuple[float, float]:
    """Return the limits of an axis, with a margin, for one or more finite values."""
    finite = list(values)
    low, high = min(finite), max(finite)
    margin = (high - low) * 0.05
    if high - low <= 1e-9 * max(abs(low), abs(high), 1e-290):
        margin = abs(low) * 0.1 or 1.0
    bottom = low - margin
    # A loss near zero has no negative part of the axis; a curve along the axis is still drawn above it.
    return (0.0 if low > 0 > bottom else bottom), high + margin


def height_ticks(low: float, high: float, count: int, *, is_log: bool) -> Ticks:
    """Return about `count` round ticks of the value axis; on a logarithmic axis, powers of ten if they fit."""
    if is_log:
        powers = [float(power) for power in range(math.ceil(low), math.floor(high) + 1)]
        if 3 <= len(powers) <= max(3, count):
            return Ticks(powers, [_label(_power_of_ten(power)) for power in powers])
        positions = _evenly_spaced(low, high, count)
        return Ticks(positions, [_label(_power_of_ten(position)) for position in positions])
    positions = _round_values(low, high, count)
    return Ticks(positions, [_label(position) for position in positions])


def step_ticks(low: float, high: float, count: int) -> Ticks:
    """Return about `count` ticks of the step axis, at round integers."""
    positions = sorted({float(round(position)) for position in _round_values(low, high, count)})
    return Ticks(positions, [f"{step:,.0f}" if abs(step) < 1e7 else f"{step:.3g}" for step in positions])


def _round_values(low: float, high: float, count: int) -> list[float]:
    """Return about `count` multiples of 1, 2 or 5 times a power of ten from `low` to `high`, and at least two.

    Paul Heckbert, "Nice Numbers for Graph Labels", Graphics Gems, 1990.
    """
    gap = (high - low) / max(1, count)
    if not math.isfinite(gap) or gap <= 1e-12 * max(abs(low), abs(high), 1e-290):
        return _evenly_spaced(low, high, count)
    exponent = math.floor(math.log10(gap))
    # The digits and the exponent are rounded together by `float`, so that 3 * 0.1 is 0.3.
    for digit, power in ((1, exponent), (2, exponent), (5, exponent), (1, exponent + 1)):
        unit = float(f"{digit}e{power}")
        if unit >= gap:
            first, last = math.ceil(low / unit), math.floor(high / unit)
            values = [float(f"{number * digit}e{power}") for number in range(first, last + 1)]
            return values if len(values) >= 2 else _evenly_spaced(low, high, 2)
    return _evenly_spaced(low, high, count)


def _heights(values: Sequence[float], style: Style) -> list[float]:
    if style.is_log:
        # Smoothing may round the smallest positive values to zero.
        return [math.log10(max(value, math.ulp(0.0))) for value in values]
    return [max(-MAX_HEIGHT, min(MAX_HEIGHT, value)) for value in values]


def _evenly_spaced(low: float, high: float, count: int) -> list[float]:
    gaps = max(1, count - 1)
    return [low + (high - low) * (number / gaps) for number in range(gaps + 1)]


def _power_of_ten(exponent: float) -> float:
    try:
        return float(10**exponent)
    except OverflowError:
        return math.inf


def _label(value: float) -> str:
    return f"{0.0 if abs(value) < 1e-300 else value:.4g}"
