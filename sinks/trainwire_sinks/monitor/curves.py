"""What a plot shows, as numbers: curves, limits and the ticks of its axes. No terminal."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from trainwire_sinks.monitor.series import Bucket, Series, smooth

LARGEST: Final = 1e300
"""Larger values are drawn here: the distance of two of them has to be a number."""


@dataclass(frozen=True)
class Style:
    """How series are shown."""

    smoothing: float = 0.0
    """The weight of what was before, from 0 to below 1."""
    is_log: bool = False
    """Whether the axis of values is logarithmic."""


@dataclass(frozen=True)
class Curve:
    """One series as it is drawn; on a logarithmic axis heights are decimal logarithms."""

    steps: list[float]
    heights: list[float]
    lows: list[float]
    """Of the values that one point stands for; empty if each stands for one, and is not smoothed."""
    highs: list[float]
    left_out: int
    """Points that a logarithmic axis has no place for."""


class Ticks(NamedTuple):
    """Places on an axis, and what is written there."""

    places: list[float]
    labels: list[str]


def make_curve(series: Series, style: Style, points: int) -> Curve:
    """A series as a curve of at most about so many points."""
    buckets = series.buckets(points)
    shown = [bucket for bucket in buckets if bucket.mean > 0] if style.is_log else buckets
    means = [bucket.mean for bucket in shown]
    has_band = style.smoothing > 0 or any(bucket.values > 1 for bucket in shown)
    return Curve(
        [bucket.step for bucket in shown],
        _heights(smooth(means, style.smoothing) if style.smoothing else means, style),
        _heights([_low(bucket, style) for bucket in shown], style) if has_band else [],
        _heights([bucket.high for bucket in shown], style) if has_band else [],
        len(buckets) - len(shown),
    )


def limits(values: Iterable[float]) -> tuple[float, float]:
    """Where an axis begins and ends that has to hold `values`, of which there is one at least."""
    finite = list(values)
    low, high = min(finite), max(finite)
    room = (high - low) * 0.05
    if high - low <= 1e-9 * max(abs(low), abs(high), 1e-290):
        room = abs(low) * 0.1 or 1.0
    return low - room, high + room


def height_ticks(low: float, high: float, count: int, *, is_log: bool) -> Ticks:
    """So many ticks of the axis of values, and one for each power of ten where that fits."""
    if is_log:
        powers = [float(power) for power in range(math.ceil(low), math.floor(high) + 1)]
        if 3 <= len(powers) <= max(3, count):
            return Ticks(powers, [_short(_power(power)) for power in powers])
    places = _spread(low, high, count)
    return Ticks(places, [_short(_power(place) if is_log else place) for place in places])


def step_ticks(low: float, high: float, count: int) -> Ticks:
    """So many ticks of the axis of steps, at whole numbers."""
    places = sorted({float(round(place)) for place in _spread(low, high, count)})
    return Ticks(places, [f"{place:,.0f}" if abs(place) < 1e7 else f"{place:.3g}" for place in places])


def _low(bucket: Bucket, style: Style) -> float:
    """Where a bucket's band begins: at its mean, if it holds values that a logarithmic axis has no place for."""
    return bucket.mean if style.is_log and bucket.low <= 0 else bucket.low


def _heights(values: Sequence[float], style: Style) -> list[float]:
    if style.is_log:
        return [math.log10(value) for value in values]
    return [max(-LARGEST, min(LARGEST, value)) for value in values]


def _spread(low: float, high: float, count: int) -> list[float]:
    gaps = max(1, count - 1)
    return [low + (high - low) * (number / gaps) for number in range(gaps + 1)]


def _power(exponent: float) -> float:
    try:
        return float(10**exponent)
    except OverflowError:
        return math.inf


def _short(value: float) -> str:
    return f"{0.0 if abs(value) < 1e-300 else value:.4g}"
