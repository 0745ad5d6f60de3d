"""Keeps the whole history of a metric in bounded memory."""

from __future__ import annotations

import math
from array import array
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

from trainwire_protocol.wire import Cursor

MAX_BUCKETS: Final = 1000
"""Maximum number of buckets of one series; more than a terminal has columns."""


class Bucket(NamedTuple):
    """Some consecutive points of a series."""

    step: float
    """Step of the last point."""
    low: float
    high: float
    mean: float
    values: int
    """Number of finite values."""


class Series:
    """The points of one metric, in the order recorded, in buckets with equal numbers of points.

    When all buckets are full, neighbors are merged in pairs. Memory is thus bounded, however long the run is, and
    every point counts for the minimum, maximum and mean of its bucket. Values that are not finite are only counted.
    """

    def __init__(self, limit: int = MAX_BUCKETS) -> None:
        self.latest: float | int | None = None
        """The last value."""
        self.version = 0
        """Increases with each change."""
        self._limit = limit + limit % 2
        self._stride = 1
        # Columns: one object for each bucket would take ten times the memory.
        self._steps, self._low, self._high, self._mean = array("d"), array("d"), array("d"), array("d")
        self._counts, self._non_finite, self._attempts, self._seqs = array("q"), array("q"), array("q"), array("q")

    def __len__(self) -> int:
        return len(self._steps)

    @property
    def not_finite(self) -> int:
        """Number of values that are NaN or infinite."""
        return sum(self._non_finite)

    def add(self, steps: Sequence[int], values: Sequence[float], position: Cursor) -> None:
        """Append points; `position` is the end of the batch that contains them."""
        self.latest = values[-1]
        self.version += 1
        begin = 0
        while begin < len(values):
            if not self._steps or self._counts[-1] + self._non_finite[-1] >= self._stride:
                self._append_bucket()
            end = min(len(values), begin + self._stride - self._counts[-1] - self._non_finite[-1])
            self._add_to_last_bucket(values[begin:end])
            self._steps[-1] = steps[end - 1]
            self._attempts[-1], self._seqs[-1] = position
            begin = end

    def truncate(self, after: Cursor) -> None:
        """Remove the points recorded after a position, and those in the same bucket as any of them."""
        positions = list(zip(self._attempts, self._seqs, strict=True))
        kept = bisect_right(positions, (after.attempt, after.seq))
        if kept == len(positions):
            return
        for column in (self._steps, self._low, self._high, self._mean):
            del column[kept:]
        for counts in (self._counts, self._non_finite, self._attempts, self._seqs):
            del counts[kept:]
        self.latest = self._mean[-1] if kept and self._counts[-1] else None
        self.version += 1

    def buckets(self, limit: int = MAX_BUCKETS) -> list[Bucket]:
        """Return the history in at most about `limit` buckets, without those that have no finite value."""
        rows = zip(self._steps, self._low, self._high, self._mean, self._counts, strict=True)
        buckets = [Bucket(*row) for row in rows if row[4]]
        size = -(-len(buckets) // max(1, limit))
        return buckets if size <= 1 else [_merge(buckets[at : at + size]) for at in range(0, len(buckets), size)]

    def _append_bucket(self) -> None:
        if len(self._steps) >= self._limit:
            self._merge_pairs()
        for counts in (self._counts, self._non_finite, self._attempts, self._seqs):
            counts.append(0)
        for column, value in ((self._steps, 0.0), (self._low, math.inf), (self._high, -math.inf), (self._mean, 0.0)):
            column.append(value)

    def _add_to_last_bucket(self, values: Sequence[float]) -> None:
        finite = [value for value in map(float, values) if math.isfinite(value)]
        self._non_finite[-1] += len(values) - len(finite)
        if not finite:
            return
        before, count = self._counts[-1], self._counts[-1] + len(finite)
        # Each term is divided by itself: the sum of large values may be infinite.
        self._mean[-1] = self._mean[-1] * (before / count) + sum([value / count for value in finite])
        self._low[-1] = min(self._low[-1], *finite)
        self._high[-1] = max(self._high[-1], *finite)
        self._counts[-1] = count

    def _merge_pairs(self) -> None:
        self._stride *= 2
        counts, means = self._counts, self._mean
        self._low = array("d", map(min, self._low[::2], self._low[1::2]))
        self._high = array("d", map(max, self._high[::2], self._high[1::2]))
        pairs = zip(means[::2], counts[::2], means[1::2], counts[1::2], strict=True)
        self._mean = array("d", (_weighted_mean([(a, m), (b, n)]) for a, m, b, n in pairs))
        self._counts = array("q", map(int.__add__, counts[::2], counts[1::2]))
        self._non_finite = array("q", map(int.__add__, self._non_finite[::2], self._non_finite[1::2]))
        self._steps, self._attempts, self._seqs = self._steps[1::2], self._attempts[1::2], self._seqs[1::2]


def smooth(values: Iterable[float], weight: float) -> list[float]:
    """Return the exponential moving average of `values`, corrected for its bias towards zero, as in TensorBoard.

    Args:
        values: the values.
        weight: weight of the previous average, from 0 to below 1.
    """
    smoothed: list[float] = []
    average, bias = 0.0, 1.0
    for value in values:
        average = average * weight + (1 - weight) * value
        bias *= weight
        smoothed.append(average / (1 - bias))
    return smoothed


def _merge(buckets: Sequence[Bucket]) -> Bucket:
    return Bucket(
        buckets[-1].step,
        min(bucket.low for bucket in buckets),
        max(bucket.high for bucket in buckets),
        _weighted_mean([(bucket.mean, bucket.values) for bucket in buckets]),
        sum(bucket.values for bucket in buckets),
    )


def _weighted_mean(parts: Sequence[tuple[float, int]]) -> float:
    """Return the mean of means, each with the number of values that it stands for."""
    count = sum(size for _, size in parts)
    return sum(mean * (size / count) for mean, size in parts) if count else 0.0
