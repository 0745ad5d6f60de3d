"""The queue between those that record and the drain: bounded, first in first out, and never waited for."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from enum import Enum
from operator import index
from time import time
from typing import Any, Final, TypeAlias

MAX_QUEUED_VALUES: Final = 1_000_000
"""Values that wait to be taken out before new ones are dropped."""

MAX_QUEUED_BYTES: Final = 256 << 20
"""Bytes of encoded values that wait before new ones are dropped."""


class Logged(Enum):
    """What a record of `log` holds, in the place of an event's type: a map of names to the values of scalars."""

    FLOATS = "floats"
    """All of them plain floats, so that nobody has to look again."""
    ANY = "any"
    """Numbers, what is no number, and tensors of a GPU that are on their way."""


FLOATS: Final = Logged.FLOATS
"""The same, for the hot path: a member is looked up slowly."""

Record: TypeAlias = tuple[str, Any, str | Logged, float, int, int]
"""What one call recorded: name, value, type, walltime, step, and the bytes that it counts for.

A plain tuple, since one with named fields takes twice as long to make; the name of what `log` recorded is empty.
"""


class Recorder:
    """Takes records from any thread, by one append each; the drain takes them out."""

    def __init__(self, max_values: int = MAX_QUEUED_VALUES, max_bytes: int = MAX_QUEUED_BYTES) -> None:
        self.queue: deque[Record] = deque()
        """The records, the oldest first."""
        self.dropped = 0
        """Values that were dropped because the queue was full; only grows."""
        self.last_step = 0
        """The last step that was given: only who trains gives one, so it tells of progress."""
        self.last_walltime = time()
        """When that was."""
        # Counted without a lock: the threads that record count what they put in, and the drain raises the limits
        # by what it takes out. Two that record at once may lose a count, which `emptied` puts right.
        self._values = self._bytes = 0
        self._max_values = self._values_limit = max_values
        self._max_bytes = self._bytes_limit = max_bytes

    def append(
        self, name: str, value: Any, kind: str | Logged, step: int | None, values: int = 1, size: int = 0
    ) -> None:
        """Append a record, or drop it where the queue is full; lifecycle events are never dropped.

        Args:
            name: of the event.
            value: what was recorded, which nobody else changes.
            kind: the event's type, or what `log` was given.
            step: None for the last one given.
            values: how many the record counts for.
            size: bytes that it counts for beside that.

        Raises:
            ValueError, TypeError: `step` is no integer of 64 bits.
        """
        walltime = time()
        if step is None:
            step = self.last_step
        else:
            if type(step) is not int or not -(2**63) <= step < 2**63:
                step = _checked(step)
            self.last_step, self.last_walltime = step, walltime
        if (self._values >= self._values_limit or self._bytes >= self._bytes_limit) and kind != "lifecycle":
            self.dropped += values
            return
        self._values += values
        self._bytes += size
        self.queue.append((name, value, kind, walltime, step, size))

    def take(self) -> Record:
        """The oldest record; for the drain alone, and only if there is one."""
        record = self.queue.popleft()
        if record[2].__class__ is Logged:
            self._values_limit += len(record[1]) or 1
        else:
            self._values_limit += 1
            self._bytes_limit += record[5]
        return record

    def remove(self, is_removed: Callable[[Record], bool]) -> list[Record]:
        """Take out some records wherever they stand; for the drain alone, once nobody records any more."""
        removed = list[Record]()
        for _ in range(len(self.queue)):
            record = self.queue.popleft()
            (removed if is_removed(record) else self.queue).append(record)
        return removed

    @property
    def is_half_full(self) -> bool:
        """Whether half of what may wait does."""
        values_left, bytes_left = self._values_limit - self._values, self._bytes_limit - self._bytes
        return values_left < self._max_values / 2 or bytes_left < self._max_bytes / 2

    def emptied(self) -> None:
        """Begin to count anew; called by the drain when it has found the queue empty."""
        self._values_limit = self._values + self._max_values
        self._bytes_limit = self._bytes + self._max_bytes


def names_of(record: Record) -> list[str]:
    """The names of a record's events."""
    name, value, kind, *_ = record
    return list(map(str, value)) if isinstance(kind, Logged) else [name]


def values_of(record: Record) -> int:
    """How many values it holds."""
    return len(record[1]) if isinstance(record[2], Logged) else 1


def _checked(step: Any) -> int:
    step = index(step)
    if not -(2**63) <= step < 2**63:
        raise ValueError(f"the step {step} does not fit 64 bits")
    return int(step)
