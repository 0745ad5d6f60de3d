"""The queue between the threads that record and the writer: bounded, first in first out, and without locks."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from enum import Enum
from time import time
from typing import Any, Final, TypeAlias

from trainwire.bus.values.coercion import whole_number
from trainwire.bus.values.rejections import short_repr
from trainwire_protocol.errors import UnsupportedValueError

MAX_QUEUED_VALUES: Final = 1_000_000
"""Maximum number of queued values; further ones are dropped."""

MAX_QUEUED_BYTES: Final = 256 << 20
"""Maximum size of queued encoded values, in bytes; further ones are dropped."""


class Logged(Enum):
    """The kind of a record of `log`, in place of an event's type; its value is a map of names to scalars."""

    FLOATS = "floats"
    """Plain floats only, which need no further check."""
    ANY = "any"
    """Numbers, invalid values, and scalars that are being copied from a GPU."""


FLOATS: Final = Logged.FLOATS
"""A shortcut for the hot path: looking up a member of an enumeration is slow."""

Record: TypeAlias = tuple[str, Any, str | Logged, float, int, int]
"""What one call recorded: name, value, type, walltime in seconds, step, and size in bytes.

A plain tuple, since one with named fields takes twice as long to create. The name is empty in a record of `log`.
"""


class RecordQueue:
    """Any thread appends records, each by one append to a deque; the writer takes them."""

    def __init__(self, max_values: int = MAX_QUEUED_VALUES, max_bytes: int = MAX_QUEUED_BYTES) -> None:
        self.records: deque[Record] = deque()
        """The records, oldest first."""
        self.dropped = 0
        """Number of values dropped because the queue was full, since the start."""
        self.taken = 0
        """Number of records taken since the start."""
        self.last_step = 0
        """The largest step that was passed: an event about an earlier step does not move it back."""
        self.last_walltime = time()
        """When a step was last passed, in seconds since the epoch. Only the training passes steps."""
        # No lock: the threads that record add what they append, and the writer raises the limits by what it takes.
        # Two threads that append at the same time may lose a count, which `reset_limits` corrects.
        self._values = self._bytes = 0
        self._max_values = self._values_limit = max_values
        self._max_bytes = self._bytes_limit = max_bytes

    def append(
        self,
        name: str,
        value: Any,
        kind: str | Logged,
        step: int | None,
        values: int = 1,
        size: int = 0,
        walltime: float | None = None,
    ) -> None:
        """Append a record, or drop it if the queue is full; lifecycle events are never dropped.

        Args:
            name: the event's name.
            value: what was recorded; nothing else may change it.
            kind: the event's type, or the kind of a record of `log`.
            step: None for the largest step that was passed.
            values: number of values in the record.
            size: size of its encoded values, in bytes.
            walltime: in seconds since the epoch; None for now.

        Raises:
            UnsupportedValueError: `step` is not a whole number of 64 bits.
        """
        now = time()
        if step is None:
            step = self.last_step
        else:
            if type(step) is not int or not -(2**63) <= step < 2**63:
                step = _check_step(step)
            self.last_walltime = now
            if step > self.last_step:
                self.last_step = step
        if (self._values >= self._values_limit or self._bytes >= self._bytes_limit) and kind != "lifecycle":
            self.dropped += values
            return
        self._values += values
        self._bytes += size
        self.records.append((name, value, kind, now if walltime is None else walltime, step, size))

    def take(self) -> Record:
        """Remove and return the oldest record. Only for the writer, and only if there is one."""
        record = self.records.popleft()
        self.taken += 1
        if record[2].__class__ is Logged:
            self._values_limit += len(record[1]) or 1
        else:
            self._values_limit += 1
            self._bytes_limit += record[5]
        return record

    def remove(self, is_removed: Callable[[Record], bool]) -> list[Record]:
        """Remove and return the records for which `is_removed` is true. Only for the writer, after the last append."""
        removed = list[Record]()
        for _ in range(len(self.records)):
            record = self.records.popleft()
            (removed if is_removed(record) else self.records).append(record)
        return removed

    @property
    def is_half_full(self) -> bool:
        """Whether half of the values or bytes that fit are queued."""
        values_left, bytes_left = self._values_limit - self._values, self._bytes_limit - self._bytes
        return values_left < self._max_values / 2 or bytes_left < self._max_bytes / 2

    def reset_limits(self) -> None:
        """Correct the counts; called by the writer when it finds the queue empty."""
        self._values_limit = self._values + self._max_values
        self._bytes_limit = self._bytes + self._max_bytes


def names_of(record: Record) -> list[str]:
    """Return the names of a record's events."""
    name, value, kind, *_ = record
    return list(map(str, value)) if isinstance(kind, Logged) else [name]


def values_of(record: Record) -> int:
    """Return the number of values in a record."""
    return len(record[1]) if isinstance(record[2], Logged) else 1


def _check_step(step: Any) -> int:
    number = whole_number(step, "step")
    if not -(2**63) <= number < 2**63:
        raise UnsupportedValueError(f"step is {short_repr(step)}; it must fit into 64 bits")
    return number
