"""Robust statistics: which values are outliers among many.

The score is the modified z-score of Iglewicz and Hoaglin, "How to Detect and Handle Outliers", 1993. Median and median
absolute deviation (MAD) take the place of mean and standard deviation, so that the outliers themselves hardly
affect the score.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final, NamedTuple

DEVIATIONS_PER_MAD: Final = 1.4826
"""Standard deviation of a normal distribution whose MAD is 1: 1 / Φ⁻¹(3/4), or 1 / 0.6745."""

MIN_RELATIVE_DEVIATION: Final = 0.01
"""Smallest deviation, as a fraction of the median. Without it any change of a nearly constant value is an outlier."""


class RobustScale(NamedTuple):
    """The location and scale of some values."""

    median: float
    deviation: float
    """The standard deviation, estimated from the MAD."""

    @classmethod
    def of(cls, values: Sequence[float]) -> RobustScale:
        """Return the scale of at least one value."""
        median = low_median(values)
        deviation = DEVIATIONS_PER_MAD * low_median([abs(value - median) for value in values])
        return cls(median, max(deviation, MIN_RELATIVE_DEVIATION * abs(median)))

    def score(self, value: float) -> float:
        """Return the modified z-score of a value: how many deviations it is above the median, negative if below."""
        if value == self.median:
            return 0.0
        distance = value - self.median
        return distance / self.deviation if self.deviation else math.copysign(math.inf, distance)


def low_median(values: Sequence[float]) -> float:
    """Return the median of at least one value, the lower of two in the middle."""
    return sorted(values)[low_median_index(len(values))]


def low_median_index(count: int) -> int:
    """Return the index of the median among `count` sorted values, the lower of two in the middle."""
    return (count - 1) // 2
