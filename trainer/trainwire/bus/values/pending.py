"""Recorded values that are not complete yet: still on their way from a GPU, not encoded, or with notes to report."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

from trainwire.bus.values.gpu import DeviceCopy, PendingScalar


class PendingValue(Protocol):
    """A value that is not available yet."""

    def is_ready(self) -> bool:
        """Return whether `resolve` returns without waiting."""

    def resolve(self) -> Any:
        """Return the value: plain, or `Noted`."""


class PendingEncoding:
    """A value that the writer encodes, from data that nothing else changes and that may still be copied."""

    def __init__(self, encode: Callable[[], Any], size: int, copies: Sequence[DeviceCopy] = ()) -> None:
        self.resolve = encode
        self.size = size
        """Size of the data in bytes."""
        self._copies = copies

    def is_ready(self) -> bool:
        """Return whether the data is available."""
        return all(copy.is_ready() for copy in self._copies)


@dataclass(frozen=True, slots=True)
class Noted:
    """A value that was recorded differently from how it was passed, which is reported with its event's name."""

    value: Any
    notes: Mapping[str, str]
    """What was changed, by kind; each kind is reported once for each event's name."""


_PENDING: Final = (PendingScalar, PendingEncoding)


def find_pending(value: Any) -> list[PendingValue]:
    """Return the parts of a recorded value that must be resolved."""
    if isinstance(value, _PENDING):
        return [value]
    if isinstance(value, Noted):
        return find_pending(value.value)
    items = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return [item for item in items if isinstance(item, _PENDING)]


def resolve(value: Any) -> Any:
    """Return a recorded value with its pending parts resolved."""
    if isinstance(value, _PENDING):
        return value.resolve()
    if isinstance(value, Noted):
        return Noted(resolve(value.value), value.notes)
    if isinstance(value, dict):
        return {key: resolve(item) for key, item in value.items()} if find_pending(value) else value
    return [resolve(item) for item in value] if isinstance(value, list) and find_pending(value) else value


def size_of(value: Any) -> int:
    """Return the approximate size of a recorded value in bytes."""
    if isinstance(value, (bytes, str)):
        return len(value)
    if isinstance(value, PendingEncoding):
        return value.size
    if isinstance(value, Noted):
        return size_of(value.value)
    if isinstance(value, dict):
        return 64 + sum(map(size_of, value.values()))
    return 16 + sum(map(size_of, value)) if isinstance(value, list) else 16
