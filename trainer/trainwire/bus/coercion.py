"""Converts what users pass to the bus into the plain values of events.

Values are read on the thread that records, so that a later change does not alter what was recorded. Scalars on a GPU
become `PendingScalar`, and values that take time to encode `PendingEncoding`; the writer resolves both.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from enum import Enum
from typing import Any, Final, Protocol

from trainwire.bus.gpu import DeviceCopy, PendingScalar, copy_scalars
from trainwire.bus.rejections import short_repr

_NUMBERS: Final = frozenset({float, int})
_MAX_DEPTH: Final = 8


class PendingValue(Protocol):
    """A value that is not available yet."""

    def is_ready(self) -> bool:
        """Return whether `resolve` returns without waiting."""

    def resolve(self) -> Any:
        """Return the plain value."""


class PendingEncoding:
    """A value that the writer encodes, from data that nothing else changes and that may still be copied."""

    def __init__(self, encode: Callable[[], Any], size: int, copy: DeviceCopy | None = None) -> None:
        self.resolve = encode
        self.size = size
        """Size of the data in bytes."""
        self._copy = copy

    def is_ready(self) -> bool:
        """Return whether the data is available."""
        return self._copy is None or self._copy.is_ready()


_PENDING: Final = (PendingScalar, PendingEncoding)


def coerce_scalars(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """Return a copy of the metrics: tensors on the CPU are read at once, those on a GPU are copied together."""
    values = dict(metrics)
    on_gpu: dict[str, Any] = {}
    for name, value in values.items():
        if _is_on_gpu(value):
            on_gpu[name] = value
        else:
            values[name] = coerce_number(value)
    if on_gpu:
        values.update(zip(on_gpu, copy_scalars(list(on_gpu.values())), strict=True))
    return values


def coerce_number(value: Any) -> Any:
    """Return a value as a number, or as a short text if it is not a number; the batcher rejects that."""
    if type(value) in _NUMBERS:
        return value
    if _is_on_gpu(value):
        return copy_scalars([value])[0]
    try:
        item = getattr(value, "item", None)
        number = item() if item else value
        if isinstance(number, int) and -(2**63) <= number < 2**63:
            return int(number)
        return float(number) if not isinstance(number, (str, bytes)) else short_repr(number)
    except Exception:
        return f"<{type(value).__name__}>"


def coerce_plain(value: Any, depth: int = 0) -> Any:
    """Return a deep copy of a value made of None, bools, numbers, strings, bytes, lists and maps.

    Tensors and arrays become lists; for those on a GPU this waits for the GPU. Anything else becomes a string.
    """
    if value is None or type(value) in (bool, float, str, bytes):
        return value
    if isinstance(value, Enum):
        return coerce_plain(value.value, depth + 1) if depth < _MAX_DEPTH else repr(value)
    if isinstance(value, int):
        return int(value) if -(2**63) <= value < 2**63 else repr(value)
    if depth == _MAX_DEPTH:
        return repr(value)
    if isinstance(value, Mapping):
        return {str(key): coerce_plain(item, depth + 1) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [coerce_plain(item, depth + 1) for item in value]
    to_list = getattr(value, "tolist", None)
    if to_list is not None:
        return coerce_plain(to_list(), depth + 1)
    return float(value) if isinstance(value, float) else str(value)


def size_of(value: Any) -> int:
    """Return the approximate size of a recorded value in bytes."""
    if isinstance(value, (bytes, str)):
        return len(value)
    if isinstance(value, PendingEncoding):
        return value.size
    if isinstance(value, dict):
        return 64 + sum(map(size_of, value.values()))
    return 16 + sum(map(size_of, value)) if isinstance(value, list) else 16


def coerce_labelled(value: Any) -> Any:
    """Return the value of a `scalars` event: a list of numbers, or a map of labels to numbers."""
    if isinstance(value, Mapping):
        return coerce_scalars({str(label): number for label, number in value.items()})
    if isinstance(value, Sequence) and not isinstance(value, (str, bytes)):
        return [coerce_number(number) for number in value]
    return coerce_plain(value)


def coerce_table(value: Any) -> Any:
    """Return the value of a `table` event, from `{columns, rows}` or a list of maps with the same keys."""
    if isinstance(value, Mapping):
        return coerce_plain(value)
    rows = [dict(row) for row in value]
    columns = list(dict.fromkeys(column for row in rows for column in row))
    return coerce_plain({"columns": columns, "rows": [[row.get(column) for column in columns] for row in rows]})


def find_pending(value: Any) -> list[PendingValue]:
    """Return the parts of a recorded value that must be resolved."""
    if isinstance(value, _PENDING):
        return [value]
    items = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return [item for item in items if isinstance(item, _PENDING)]


def resolve(value: Any) -> Any:
    """Return a recorded value with its pending parts resolved."""
    if isinstance(value, _PENDING):
        return value.resolve()
    if isinstance(value, dict):
        return {key: resolve(item) for key, item in value.items()} if find_pending(value) else value
    return [resolve(item) for item in value] if isinstance(value, list) and find_pending(value) else value


def _is_on_gpu(value: Any) -> bool:
    return getattr(value, "is_cuda", False) is True
