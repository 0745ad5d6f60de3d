"""Histograms: of tensors, which are bucketed on their device, and of arrays, lists and other numbers.

A histogram describes the finite values. How many were NaN or infinite is recorded beside it.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any, Final

from trainwire.bus.values.coercion import read_items
from trainwire.bus.values.gpu import copy_to_host
from trainwire.bus.values.pending import PendingEncoding
from trainwire.bus.values.plain import coerce_plain
from trainwire.bus.values.tensors import copy_array, describe, is_array, is_on_gpu, is_tensor, readable
from trainwire_protocol.errors import UnsupportedValueError

BINS: Final = 64
"""Number of bins of equal width."""

FIELDS: Final = ("edges", "counts", "min", "max", "sum", "sum_squares")

_NUMBERS: Final = frozenset({float, int})


def coerce_histogram(value: Any) -> Any:
    """Return the value of a `histogram` event, from a complete one, from counts and edges, or from numbers.

    Raises:
        UnsupportedValueError: it contains anything but real numbers.
    """
    if isinstance(value, Mapping):
        missing = [field for field in FIELDS if field not in value]
        if missing:
            raise UnsupportedValueError(
                f"the value is a map without {', '.join(missing)}; pass the numbers, such as list(value.values())"
            )
        return coerce_plain(value)
    if is_tensor(value):
        return _bucket_tensor(readable(value))
    counted = _counts_and_edges(value)
    if counted:
        return _from_counts(*counted)
    if is_array(value):
        array = copy_array(value.compressed() if hasattr(value, "compressed") else value, "a histogram of an array")
        return PendingEncoding(lambda: _bucket_array(array), array.nbytes)
    if value is None:
        raise UnsupportedValueError("the value is None; pass numbers")
    items = _flatten(value)
    if any(map(is_tensor, items)):
        return _bucket_tensor(_join(items))
    numbers = list(map(_number, items))
    return PendingEncoding(lambda: bucket(numbers), 32 * len(numbers))


def _flatten(value: Any) -> list[Any]:
    """Return the numbers and tensors in nested lists, arrays and iterators."""
    if is_tensor(value):
        return [value]
    if is_array(value):
        return list(copy_array(value, "a histogram of arrays").reshape(-1).tolist())
    if isinstance(value, (str, bytes, Mapping)) or not isinstance(value, Iterable):
        return [value]
    items = read_items(value)
    if _NUMBERS.issuperset(map(type, items)):  # most lists: half of the time
        return items
    return [number for item in items for number in (_flatten(item) if isinstance(item, Iterable) else (item,))]


def _number(item: Any) -> float:
    """Return a number of a list as a float; None is missing, as NaN is."""
    try:
        if not isinstance(item, (str, bytes)):
            return math.nan if item is None else float(item)
    except Exception:
        pass
    raise UnsupportedValueError(f"the value contains {describe(item)}; pass numbers")


def _join(items: Sequence[Any]) -> Any:
    """Return tensors and numbers as one tensor, on the device of the first tensor."""
    torch = sys.modules["torch"]
    tensors = [readable(item) if is_tensor(item) else torch.tensor(_number(item)) for item in items]
    device = next(tensor.device for tensor, item in zip(tensors, items, strict=True) if is_tensor(item))
    return torch.cat([tensor.reshape(-1).to(device, torch.float64, non_blocking=True) for tensor in tensors])


def _counts_and_edges(value: Any) -> tuple[list[float], list[float]] | None:
    """Return the counts and edges in a pair of arrays, such as `numpy.histogram` and `torch.histogram` return."""
    if not isinstance(value, tuple) or len(value) != 2 or not all(is_tensor(part) or is_array(part) for part in value):
        return None
    counts, edges = value
    if len(counts.shape) != 1 or len(edges.shape) != 1 or edges.shape[0] != counts.shape[0] + 1:
        return None
    if is_on_gpu(counts) or is_on_gpu(edges):
        raise UnsupportedValueError("the counts and edges are on a GPU; pass (counts.cpu(), edges.cpu())")
    return counts.tolist(), edges.tolist()


def _from_counts(counts: list[float], edges: list[float]) -> dict[str, Any]:
    """Return a histogram whose sums are those of the middles of its bins."""
    middles = [low + (high - low) / 2 for low, high in pairwise(edges)]
    total = math.fsum(count * middle for count, middle in zip(counts, middles, strict=True))
    squares = math.fsum(count * middle * middle for count, middle in zip(counts, middles, strict=True))
    return dict(zip(FIELDS, (edges, counts, edges[0], edges[-1], total, squares), strict=True))


def bucket(numbers: Sequence[float]) -> dict[str, Any]:
    """Return the histogram of the finite numbers."""
    finite = [number for number in numbers if math.isfinite(number)]
    low, high = min(finite, default=0.0), max(finite, default=0.0)
    scale = _scale(low, high)
    counts = [0] * BINS
    for number in finite:
        place = int((number * scale - low * scale) / (high * scale - low * scale) * BINS) if high > low else 0
        counts[min(place, BINS - 1)] += 1
    sums = _sum(finite), _sum([number * number for number in finite])
    nan = sum(map(math.isnan, numbers))
    return _histogram(counts, low, high, *sums, nan, len(numbers) - len(finite) - nan)


def _sum(numbers: Sequence[float]) -> float:
    try:
        return math.fsum(numbers)
    except OverflowError:
        return sum(numbers)


def _scale(low: float, high: float) -> float:
    """Return a factor with which the range does not exceed the largest float."""
    return 0.5 if math.isinf(high - low) else 1.0


def _bucket_array(array: Any) -> dict[str, Any]:
    import numpy as np

    with np.errstate(all="ignore"):
        values = array.astype(np.float64).reshape(-1)
        finite = values[np.isfinite(values)]
        nan = int(np.isnan(values).sum())
        infinite = values.size - finite.size - nan
        if not finite.size:
            return _histogram([0] * BINS, 0.0, 0.0, 0.0, 0.0, nan, infinite)
        low, high = float(finite.min()), float(finite.max())
        scale = _scale(low, high)
        shares = (finite * scale - low * scale) / (high * scale - low * scale) if high > low else np.zeros(finite.size)
        places = (shares * BINS).astype(np.int64).clip(0, BINS - 1)
        counts = np.bincount(places, minlength=BINS).tolist()
        sums = float(finite.sum()), float((finite * finite).sum())
    return _histogram(counts, low, high, *sums, nan, infinite)


def _bucket_tensor(tensor: Any) -> PendingEncoding:
    """Bucket the values of a tensor with its own operations, without waiting for a GPU."""
    values = tensor.reshape(-1).double()
    finite = values.isfinite()
    kept = values.where(finite, values.new_zeros(()))
    low = values.where(finite, values.new_full((), math.inf)).amin() if len(values) else values.new_zeros(())
    high = values.where(finite, values.new_full((), -math.inf)).amax() if len(values) else values.new_zeros(())
    # So that the range does not exceed the largest float.
    scale = values.new_ones(()).where((high - low).isfinite(), values.new_full((), 0.5))
    shares = (kept * scale - low * scale) / (high * scale - low * scale)
    places = (shares * BINS).nan_to_num(0.0).long().clamp(0, BINS - 1)
    packed = values.new_zeros(BINS + 6)
    packed[:BINS].scatter_add_(0, places, finite.double())
    statistics = (low, high, kept.sum(), (kept * kept).sum(), values.isnan().sum(), values.isinf().sum())
    for place, number in enumerate(statistics):
        packed[BINS + place] = number
    copy = copy_to_host(packed)
    return PendingEncoding(lambda: _unpack(copy.numbers()), 8 * len(packed), [copy])


def _unpack(packed: list[float]) -> dict[str, Any]:
    low, high, total, squares, nan, infinite = packed[BINS:]
    low, high = (low, high) if math.isfinite(low) else (0.0, 0.0)
    return _histogram([int(count) for count in packed[:BINS]], low, high, total, squares, int(nan), int(infinite))


def _histogram(
    counts: list[int], low: float, high: float, total: float, squares: float, nan: int, infinite: int
) -> dict[str, Any]:
    shares = [place / BINS for place in range(BINS)]
    if math.isinf(high - low):
        edges = [low * (1 - share) + high * share for share in shares]
    else:
        edges = [low + (high - low) * share for share in shares]
    histogram = dict(zip(FIELDS, ([*edges, high], counts, low, high, total, squares), strict=True))
    left_out = {"nan": nan, "infinite": infinite}
    return histogram | {name: count for name, count in left_out.items() if count}
