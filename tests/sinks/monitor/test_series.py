"""The history of a metric has bounded memory and correct buckets."""

from __future__ import annotations

import math
from statistics import fmean

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainwire_protocol.wire import Cursor
from trainwire_sinks.monitor.series import Bucket, Series, smooth

LIMIT = 8
ANY = st.floats(allow_nan=True, allow_infinity=True) | st.integers(-(2**63), 2**64 - 1)


def series_of(numbers: list[float]) -> Series:
    """Return a series whose steps and seqs are the positions of its values."""
    series = Series(LIMIT)
    for place, value in enumerate(numbers):
        series.add([place], [value], Cursor(0, place))
    return series


def bucket_of(numbers: list[float], first: int) -> Bucket | None:
    """Return the expected bucket of consecutive values, computed independently; None if no value is finite."""
    finite = [float(value) for value in numbers if math.isfinite(value)]
    if not finite:
        return None
    mean = sum(value / len(finite) for value in finite)
    return Bucket(first + len(numbers) - 1, min(finite), max(finite), mean, len(finite))


@given(st.lists(ANY, max_size=100), st.integers(1, 40))
def test_every_point_counts_in_its_bucket(numbers: list[float], together: int) -> None:
    """However many points are added, the buckets are few and of equal size, and each summarizes its points."""
    series = Series(LIMIT)
    for at in range(0, len(numbers), together):
        points = numbers[at : at + together]
        series.add(range(at, at + len(points)), points, Cursor(0, at))
    stride = 1
    while len(numbers) > stride * LIMIT:
        stride *= 2
    wanted = [bucket_of(numbers[at : at + stride], at) for at in range(0, len(numbers), stride)]
    found = series.buckets()
    assert len(series) <= LIMIT
    assert [bucket[:3] + bucket[4:] for bucket in found] == [bucket[:3] + bucket[4:] for bucket in wanted if bucket]
    for ours, theirs in zip(found, filter(None, wanted), strict=True):
        assert ours.mean == pytest.approx(theirs.mean, rel=1e-9, abs=1e-12 * max(abs(ours.low), abs(ours.high)))
    assert series.not_finite == sum(not math.isfinite(value) for value in numbers)


@given(st.lists(st.floats(-1e9, 1e9), min_size=1, max_size=100), st.integers(0, 100), st.lists(st.floats(-1e9, 1e9)))
def test_truncation_removes_later_points(before: list[float], position: int, after: list[float]) -> None:
    """After a truncation, no bucket contains a later point, and at most one bucket of earlier points is lost."""
    series = series_of(before)
    stride = -(-len(before) // len(series))
    series.truncate(Cursor(0, position - 1))
    kept = sum(bucket.values for bucket in series.buckets())
    assert min(position, len(before)) - 2 * stride < kept <= position
    assert all(bucket.low >= min(before[:kept]) and bucket.high <= max(before[:kept]) for bucket in series.buckets())
    for place, value in enumerate(after):
        series.add([position + place], [value], Cursor(1, place))
    assert sum(bucket.values for bucket in series.buckets()) == kept + len(after)
    assert len(series) <= LIMIT


def test_a_short_history_is_truncated_exactly() -> None:
    """While each point has its own bucket, exactly the points up to the mark are kept."""
    series = series_of([5.0, 4.0, 3.0, math.inf])
    series.truncate(Cursor(0, 1))
    assert [bucket.mean for bucket in series.buckets()] == [5.0, 4.0]
    assert (series.latest, series.not_finite) == (4.0, 0)
    series.truncate(Cursor(-1, -1))
    assert (series.latest, series.buckets()) == (None, [])


@given(st.lists(st.floats(-1e9, 1e9), min_size=1, max_size=50), st.integers(1, 10))
def test_merged_buckets_keep_the_statistics(numbers: list[float], limit: int) -> None:
    """Reduced for a narrow screen, a history keeps its extremes, its mean and its last step."""
    series = series_of(numbers)
    buckets = series.buckets(limit)
    assert len(buckets) <= limit
    assert min(bucket.low for bucket in buckets) == min(numbers)
    assert max(bucket.high for bucket in buckets) == max(numbers)
    assert buckets[-1].step == len(numbers) - 1
    mean = sum(bucket.mean * bucket.values for bucket in buckets) / len(numbers)
    assert mean == pytest.approx(fmean(numbers), rel=1e-6, abs=1e-3)


def test_large_values_have_a_mean() -> None:
    """The mean of values whose sum is infinite is finite."""
    series = series_of([1e308] * 20)
    assert all(bucket.mean == pytest.approx(1e308) for bucket in series.buckets())


def test_memory_does_not_grow() -> None:
    """After a hundred thousand points, a series has no more buckets than after a thousand."""
    series = Series()
    for step in range(0, 100_000, 50):
        series.add(range(step, step + 50), [0.5] * 50, Cursor(0, step))
    assert 500 <= len(series) <= 1000
    assert sum(bucket.values for bucket in series.buckets()) == 100_000


@pytest.mark.parametrize("weight", [0.6, 0.9, 0.99])
def test_smoothing_is_unbiased(weight: float) -> None:
    """A constant series is unchanged from its first value on, and a jump is followed gradually."""
    assert smooth([3.0] * 5, weight) == pytest.approx([3.0] * 5)
    followed = smooth([0.0] * 100 + [1.0] * 3, weight)[100:]
    assert 0 < followed[0] < followed[1] < followed[2] < 1
