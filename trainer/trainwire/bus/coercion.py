"""Turns what users pass to the bus into the plain values that events hold.

Reading happens on the thread that records, so that a later change cannot alter what was recorded. What lives on a GPU
becomes `Deferred`, and what takes time to encode `Encoded`: both are resolved on the journal's thread.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from enum import Enum
from typing import Any, Final, Protocol

from trainwire.bus.gpu import Deferred, Transfer, defer
from trainwire.bus.rejections import shown

_NUMBERS: Final = frozenset({float, int})
_MAX_DEPTH: Final = 8


class Pending(Protocol):
    """A value that is not known yet."""

    def is_ready(self) -> bool:
        """Whether `resolve` can tell it without waiting."""

    def resolve(self) -> Any:
        """The plain value."""


class Encoded:
    """A value that the journal's thread computes, from data that may be on its way and that nobody else changes."""

    def __init__(self, encode: Callable[[], Any], size: int, transfer: Transfer | None = None) -> None:
        self.resolve = encode
        self.size = size
        """Of the data, in bytes."""
        self._transfer = transfer

    def is_ready(self) -> bool:
        """Whether the data has arrived."""
        return self._transfer is None or self._transfer.is_ready()


def coerce_scalars(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of the metrics: numbers as they are, tensors read at once or, from a GPU, deferred together."""
    values = dict(metrics)
    on_gpu: dict[str, Any] = {}
    for name, value in values.items():
        if _is_on_gpu(value):
            on_gpu[name] = value
        else:
            values[name] = coerce_number(value)
    if on_gpu:
        values.update(zip(on_gpu, defer(list(on_gpu.values())), strict=True))
    return values


def coerce_number(value: Any) -> Any:
    """The number that a value holds; a value that holds none is returned as a short text, and refused later."""
    if type(value) in _NUMBERS:
        return value
    if _is_on_gpu(value):
        return defer([value])[0]
    try:
        item = getattr(value, "item", None)
        number = item() if item else value
        if isinstance(number, int) and -(2**63) <= number < 2**63:
            return int(number)
        return float(number) if not isinstance(number, (str, bytes)) else shown(number)
    except Exception:
        return f"<{type(value).__name__}>"


def coerce_plain(value: Any, depth: int = 0) -> Any:
    """A deep copy of a value in None, bools, numbers, strings, bytes, lists and maps; anything else as a string.

    Tensors and arrays become lists, those of a GPU after waiting for it: pass numbers to `log` instead.
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
    """About how many bytes a recorded value holds."""
    if isinstance(value, (bytes, str)):
        return len(value)
    if isinstance(value, Encoded):
        return value.size
    if isinstance(value, dict):
        return 64 + sum(map(size_of, value.values()))
    return 16 + sum(map(size_of, value)) if isinstance(value, list) else 16


def coerce_labelled(value: Any) -> Any:
    """The numbers of `scalars`: a list, or a map of label to number."""
    if isinstance(value, Mapping):
        return coerce_scalars({str(label): number for label, number in value.items()})
    if isinstance(value, Sequence) and not isinstance(value, (str, bytes)):
        return [coerce_number(number) for number in value]
    return coerce_plain(value)


def coerce_table(value: Any) -> Any:
    """A table: `{columns, rows}`, or a list of maps with the same keys."""
    if isinstance(value, Mapping):
        return coerce_plain(value)
    rows = [dict(row) for row in value]
    columns = list(dict.fromkeys(column for row in rows for column in row))
    return coerce_plain({"columns": columns, "rows": [[row.get(column) for column in columns] for row in rows]})


def find_pending(value: Any) -> list[Pending]:
    """What of a recorded value is still to be resolved."""
    if isinstance(value, (Deferred, Encoded)):
        return [value]
    items = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return [item for item in items if isinstance(item, (Deferred, Encoded))]


def resolve(value: Any) -> Any:
    """A recorded value with all that was pending in it."""
    if isinstance(value, (Deferred, Encoded)):
        return value.resolve()
    if isinstance(value, dict):
        return {key: resolve(item) for key, item in value.items()} if find_pending(value) else value
    return [resolve(item) for item in value] if isinstance(value, list) and find_pending(value) else value


def _is_on_gpu(value: Any) -> bool:
    return getattr(value, "is_cuda", False) is True
