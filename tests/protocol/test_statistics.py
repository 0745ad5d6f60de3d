"""Robust statistics."""

from __future__ import annotations

import math
import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainwire_protocol.statistics import DEVIATIONS_PER_MAD, RobustScale, low_median

values = st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=20)


@given(values)
def test_the_median_is_that_of_the_standard_library(numbers: list[float]) -> None:
    """The median is the lower of two in the middle."""
    assert low_median(numbers) == statistics.median_low(numbers)


def test_the_deviation_is_that_of_a_normal_distribution() -> None:
    """For normally distributed values the deviation is their standard deviation."""
    normal = statistics.NormalDist(mu=100, sigma=15)
    scale = RobustScale.of([normal.inv_cdf((number + 0.5) / 1000) for number in range(1000)])
    assert scale == pytest.approx((100, 15), rel=0.01)
    assert pytest.approx(1 / statistics.NormalDist().inv_cdf(0.75), rel=1e-4) == DEVIATIONS_PER_MAD


def test_the_score_is_the_modified_z_score() -> None:
    """The score is Iglewicz and Hoaglin's 0.6745 (x - median) / MAD, and a few outliers do not affect it."""
    scale = RobustScale.of([10, 11, 12, 13, 14, 1000, 1_000_000])
    assert scale.median == 13
    assert scale.score(1000) == pytest.approx(0.6745 * (1000 - 13) / 2, rel=1e-3)
    assert scale.score(10) == -scale.score(16)


def test_a_nearly_constant_value_has_a_deviation() -> None:
    """The deviation is at least a hundredth of the median, whatever its sign."""
    assert RobustScale.of([-2.0] * 5) == (-2.0, 0.02)
    assert RobustScale.of([100.0] * 5).score(101.0) == pytest.approx(1)


@given(st.floats(allow_nan=False))
def test_any_distance_from_constant_zeros_is_infinite(value: float) -> None:
    """Zeros have no deviation: a score is 0 at the median and infinite elsewhere, with the sign of the distance."""
    assert RobustScale.of([0.0] * 3).score(value) == (math.copysign(math.inf, value) if value else 0.0)
