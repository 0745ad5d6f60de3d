"""Converts what users log into numbers.

Values are read on the thread that records, so that a later change does not alter what was recorded. Scalars on a GPU
become `PendingScalar`, which the writer resolves. In place of a value that is not a number stands the error that says
why, so that the others are recorded; the batcher reports it.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sized
from decimal import Decimal
from fractions import Fraction
from typing import Any, Final

from trainwire.bus.values.gpu import PendingScalar, copy_scalars, copy_to_host
from trainwire.bus.values.pending import Noted
from trainwire.bus.values.tensors import TIME_KINDS, check_tensor, describe, dtype_kind, is_on_gpu, is_tensor, readable
from trainwire_protocol.errors import UnsupportedValueError
from trainwire_protocol.events import MAX_NESTING

MAX_ITEMS: Final = 1_000_000
"""Maximum number of items that are read from an iterator, which may be endless."""

_NUMBERS: Final = frozenset({float, int})


def coerce_scalars(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """Return a copy of the metrics, with those of nested maps under names such as `dev/f1`.

    Tensors on the CPU are read at once, those on a GPU are copied together.
    """
    values: dict[str, Any] = {}
    on_gpu: dict[str, Any] = {}
    nested: list[str] = []
    for name, value in metrics.items():
        if type(value) in _NUMBERS:
            values[name] = value
        else:
            _add(name, value, values, on_gpu, nested)
    for name in nested:
        if type(metrics.get(name)) in _NUMBERS:  # it may have replaced the one in the nested map
            values[name] = _taken(name, on_gpu)
    if on_gpu:
        values.update(zip(on_gpu, copy_scalars(list(on_gpu.values())), strict=True))
    return values


def _add(
    name: str, value: Any, values: dict[str, Any], on_gpu: dict[str, Any], nested: list[str], depth: int = 0
) -> None:
    """Add a metric, or those of a nested map, whose names are also added to `nested`."""
    if is_on_gpu(value):
        number = _gpu_problem(value)
        if number is None:
            on_gpu[name] = value
    else:
        number = _read_number(value)
        if number.__class__ is UnsupportedValueError and isinstance(value, Mapping) and len(value) > 0:
            if depth < MAX_NESTING:
                for label, item in value.items():
                    _add(f"{name}/{label}", item, values, on_gpu, nested, depth + 1)
                return
            number = UnsupportedValueError(f"the value is a map nested more than {MAX_NESTING} levels deep")
    values[name] = number if name not in values else _taken(name, on_gpu)
    if depth:
        nested.append(name)


def _taken(name: str, on_gpu: dict[str, Any]) -> UnsupportedValueError:
    """Return the error in place of two values of one name, of which one may be on a GPU."""
    on_gpu.pop(name, None)
    return UnsupportedValueError("two values of one call have this name; log one of them under another name")


def coerce_number(value: Any) -> Any:
    """Return a value as a number, or the error that says why it is not a number."""
    if type(value) in _NUMBERS:
        return value
    return _gpu_problem(value) or copy_scalars([value])[0] if is_on_gpu(value) else _read_number(value)


def _read_number(value: Any) -> Any:
    """Return a value that is not on a GPU as a number, or the error that says why it is not a number."""
    try:
        item = getattr(value, "item", None)
        number = item() if item else value
        if isinstance(number, (int, float)):
            if item and _is_misread(value, number):
                return _explain(value)
            is_small = isinstance(number, int) and -(2**63) <= number < 2**63
            return int(number) if is_small else float(number)
        if isinstance(number, (Decimal, Fraction)):
            return float(number)
        if isinstance(number, (list, tuple)) and len(number) == 1:  # as schedulers return learning rates
            return coerce_number(number[0])
        if not isinstance(number, (str, bytes, complex)) and hasattr(number, "__float__") and not item:
            return float(number)
    except Exception:
        return _explain(value)
    return _explain(value)


def _is_misread(value: Any, number: object) -> bool:
    """Return whether NumPy has read a time as an integer, or a masked value as 0."""
    is_time = type(number) is int and dtype_kind(value) in TIME_KINDS
    return is_time or (type(value).__module__.startswith("numpy.ma") and bool(value.mask.all()))


def _gpu_problem(tensor: Any) -> UnsupportedValueError | None:
    """Return why a tensor on a GPU is not a number, without waiting for it."""
    try:
        check_tensor(tensor)
    except UnsupportedValueError as error:
        return error
    return None if tensor.numel() == 1 else _explain(tensor)


def _explain(value: Any) -> UnsupportedValueError:
    """Return the error that says why a value is not a number, and what to do."""
    try:
        if is_tensor(value):
            check_tensor(value)
        what = describe(value)
        if value is None:
            advice = "leave the name out, or pass float('nan')"
        elif isinstance(value, str):
            advice = "record it with bus.text(name, value)"
        elif isinstance(value, complex) or dtype_kind(value) == "c":
            advice = "pass abs(value), value.real or value.imag"
        elif callable(getattr(value, "compute", None)):
            advice = "pass value.compute()"
        elif callable(getattr(value, "total_seconds", None)):
            advice = "pass value.total_seconds()"
        elif dtype_kind(value) == "m":
            advice = "pass value / numpy.timedelta64(1, 's')"
        elif getattr(value, "shape", None) or isinstance(value, (list, tuple, set, frozenset)):
            advice = "pass its mean or record all with bus.scalars(name, value) or bus.histogram(name, value)"
        elif isinstance(value, Mapping):
            advice = "it contains nothing"
        elif callable(value):
            advice = "call it, and pass the result"
        else:
            advice = "pass a number or a tensor of one element"
        return UnsupportedValueError(f"the value is {what}, not a number; {advice}")
    except UnsupportedValueError as error:
        return error
    except Exception:
        return UnsupportedValueError(f"the value is a {type(value).__name__}, not a number; pass a number")


def coerce_labelled(value: Any) -> Any:
    """Return the value of a `scalars` event: a list of numbers, or a map of labels to numbers.

    An item that is not a number is left out of a map, and NaN in a list, where the others keep their positions.

    Raises:
        UnsupportedValueError: it is neither a map nor a sequence of numbers.
    """
    if isinstance(value, Mapping):
        numbers: dict[str, Any] = coerce_scalars({label: value[key] for label, key in text_keys(value).items()})
        wrong = {label: number for label, number in numbers.items() if isinstance(number, UnsupportedValueError)}
        kept = {label: number for label, number in numbers.items() if label not in wrong}
        return _noted(kept, wrong, "left out", len(wrong) == len(numbers) > 0)
    items = [coerce_number(number) for number in numbers_in(value)] if not is_tensor(value) else _split(value)
    wrong = {str(place): number for place, number in enumerate(items) if isinstance(number, UnsupportedValueError)}
    plain = [float("nan") if isinstance(number, UnsupportedValueError) else number for number in items]
    return _noted(plain, wrong, "recorded as NaN", len(wrong) == len(items) > 0)


def text_keys(values: Mapping[Any, Any]) -> dict[str, Any]:
    """Return the keys of a map by their texts. A key whose text is taken, such as 1 after "1", gets its type added."""
    keys: dict[str, Any] = {}
    for key in values:
        name = key if type(key) is str else str(key)
        keys[name if name not in keys else f"{name} ({type(key).__name__})"] = key
    return keys


def _noted(plain: Any, wrong: Mapping[str, UnsupportedValueError], change: str, is_all: bool) -> Any:
    if is_all:
        raise next(iter(wrong.values()))
    if not wrong:
        return plain
    return Noted(plain, {f"item {label}": f"the item {label!r} is {change}: {wrong[label]}" for label in wrong})


def _split(tensor: Any) -> list[Any]:
    """Return the numbers of a tensor of one dimension."""
    numbers = readable(tensor)
    if numbers.dim() != 1:
        raise UnsupportedValueError(f"the value is {describe(tensor)}; pass a tensor of one dimension")
    if not is_on_gpu(numbers):
        return list(numbers.tolist())
    torch = sys.modules["torch"]
    copy = copy_to_host(numbers.to(torch.float64, copy=True))
    return [PendingScalar(copy, place) for place in range(len(numbers))]


def numbers_in(value: Any) -> list[Any]:
    """Return the items of an array, sequence, view or iterator.

    Raises:
        UnsupportedValueError: it is not one of these, or an iterator with too many items.
    """
    if isinstance(value, (str, bytes)) or not isinstance(value, Iterable) or getattr(value, "ndim", 1) != 1:
        raise UnsupportedValueError(f"the value is {describe(value)}; pass a list of numbers")
    return read_items(value)


def read_items(value: Iterable[Any]) -> list[Any]:
    """Return the items of a collection or iterator.

    Raises:
        UnsupportedValueError: it is an iterator with more than `MAX_ITEMS` items.
    """
    if isinstance(value, Sized):
        return list(value)
    found = []
    for item in value:
        found.append(item)
        if len(found) > MAX_ITEMS:
            raise UnsupportedValueError(f"the iterator has more than {MAX_ITEMS} items; pass a list")
    return found


def whole_number(value: Any, what: str) -> int:
    """Return an integer that may be given as a whole float, or in an array or tensor of one element.

    Raises:
        UnsupportedValueError: it is not whole, or reading it would wait for a GPU.
    """
    if is_on_gpu(value):
        raise UnsupportedValueError(f"{what} is a tensor on a GPU; pass an int, since reading it waits for the GPU")
    number = coerce_number(value)
    is_number = type(number) in _NUMBERS and not isinstance(value, bool)
    if not is_number or number != number or number in (float("inf"), float("-inf")) or int(number) != number:
        raise UnsupportedValueError(f"{what} is {describe(value)}; it must be a whole number")
    return int(number)
