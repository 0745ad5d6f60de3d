"""A metric's whole history in bounded memory."""

from __future__ import annotations

import math
from array import array
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

from trainwire_protocol.wire import Cursor

MAX_BUCKETS: Final = 1000
"""Most buckets of one series; more than a terminal has columns to show."""


class Bucket(NamedTuple):
    """Some consecutive points of a series, as one."""

    step: float
    """Of the last of them."""
    low: float
    high: float
    mean: float
    values: int
    """How many finite values it holds."""


class Series:
    """The points of one metric, in the order recorded, in buckets of equally many points.

    When all buckets are full, neighbours merge in pairs: memory stays the same however long the run is, and every point
    counts for the minimum, maximum and mean of its bucket. Values that are not finite are counted, and in no bucket.
    """

    def __init__(self, limit: int = MAX_BUCKETS) -> None:
        self.latest: float | int | None = None
        """The value that came last, whatever it is."""
        self.version = 0
        """Rises with each change."""
        self._limit = limit + limit % 2
        self._stride = 1
        # Columns: a thousand objects for each of hundreds of metrics would take ten times the memory.
        self._steps, self._low, self._high, self._mean = array("d"), array("d"), array("d"), array("d")
        self._counts, self._odd, self._attempts, self._seqs = array("q"), array("q"), array("q"), array("q")

    def __len__(self) -> int:
        return len(self._steps)

    @property
    def not_finite(self) -> int:
        """How many values are NaN or infinite."""
        return sum(self._odd)

    def add(self, steps: Sequence[int], values: Sequence[float], position: Cursor) -> None:
        """Add points behind all others; `position` is the end of the batch that holds them."""
        self.latest = values[-1]
        self.version += 1
        begin = 0
        while begin < len(values):
            if not self._steps or self._counts[-1] + self._odd[-1] >= self._stride:
                self._begin_bucket()
            end = min(len(values), begin + self._stride - self._counts[-1] - self._odd[-1])
            self._fill(values[begin:end])
            self._steps[-1] = steps[end - 1]
            self._attempts[-1], self._seqs[-1] = position
            begin = end

    def _fill(self, values: Sequence[float]) -> None:
        """Put values into the last bucket, which has room for them."""
        finite = [value for value in map(float, values) if math.isfinite(value)]
        self._odd[-1] += len(values) - len(finite)
        if not finite:
            return
        before, count = self._counts[-1], self._counts[-1] + len(finite)
        # Term by term, as the sum of large values is infinite.
        self._mean[-1] = self._mean[-1] * (before / count) + sum([value / count for value in finite])
        self._low[-1] = min(self._low[-1], *finite)
        self._high[-1] = max(self._high[-1], *finite)
        self._counts[-1] = count

    def cut(self, after: Cursor) -> None:
        """Take out what was recorded after a position, and what cannot be told from it: at most one bucket more."""
        positions = list(zip(self._attempts, self._seqs, strict=True))
        kept = bisect_right(positions, (after.attempt, after.seq))
        if kept == len(positions):
            return
        for column in (self._steps, self._low, self._high, self._mean):
            del column[kept:]
        for counts in (self._counts, self._odd, self._attempts, self._seqs):
            del counts[kept:]
        self.latest = self._mean[-1] if kept and self._counts[-1] else None
        self.version += 1

    def buckets(self, limit: int = MAX_BUCKETS) -> list[Bucket]:
        """The history in at most about `limit` buckets, without those in which nothing is finite."""
        rows = zip(self._steps, self._low, self._high, self._mean, self._counts, strict=True)
        found = [Bucket(*row) for row in rows if row[4]]
        size = -(-len(found) // max(1, limit))
        return found if size <= 1 else [_merge(found[at : at + size]) for at in range(0, len(found), size)]

    def _begin_bucket(self) -> None:
        if len(self._steps) >= self._limit:
            self._halve()
        for counts in (self._counts, self._odd, self._attempts, self._seqs):
            counts.append(0)
        for column, value in ((self._steps, 0.0), (self._low, math.inf), (self._high, -math.inf), (self._mean, 0.0)):
            column.append(value)

    def _halve(self) -> None:
        """Merge the buckets in pairs."""
        self._stride *= 2
        counts, means = self._counts, self._mean
        self._low = array("d", map(min, self._low[::2], self._low[1::2]))
        self._high = array("d", map(max, self._high[::2], self._high[1::2]))
        pairs = zip(means[::2], counts[::2], means[1::2], counts[1::2], strict=True)
        self._mean = array("d", (_mean([(a, m), (b, n)]) for a, m, b, n in pairs))
        self._counts = array("q", map(int.__add__, counts[::2], counts[1::2]))
        self._odd = array("q", map(int.__add__, self._odd[::2], self._odd[1::2]))
        self._steps, self._attempts, self._seqs = self._steps[1::2], self._attempts[1::2], self._seqs[1::2]


def smooth(values: Iterable[float], weight: float) -> list[float]:
    """The exponential moving average of `values`, corrected for its beginning at zero, as TensorBoard shows it.

    `weight`, from 0 to below 1, is that of what was before.
    """
    smoothed: list[float] = []
    average, share = 0.0, 1.0
    for value in values:
        average = average * weight + (1 - weight) * value
        share *= weight
        smoothed.append(average / (1 - share))
    return smoothed


def _merge(buckets: Sequence[Bucket]) -> Bucket:
    return Bucket(
        buckets[-1].step,
        min(bucket.low for bucket in buckets),
        max(bucket.high for bucket in buckets),
        _mean([(bucket.mean, bucket.values) for bucket in buckets]),
        sum(bucket.values for bucket in buckets),
    )


def _mean(parts: Sequence[tuple[float, int]]) -> float:
    count = sum(size for _, size in parts)
    return sum(mean * (size / count) for mean, size in parts) if count else 0.0
