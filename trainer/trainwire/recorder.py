"""The queue between the threads that record and the bus thread: bounded, first in first out, and never waited for."""

from __future__ import annotations

from collections import deque
from operator import index
from time import time
from typing import Any, Final, NamedTuple

MAX_QUEUED_VALUES: Final = 1_000_000
"""Values that wait for the bus thread before new ones are dropped."""

MAX_QUEUED_BYTES: Final = 256 << 20
"""Bytes of encoded values that wait before new ones are dropped."""


class Record(NamedTuple):
    """What one call recorded."""

    name: str
    value: Any
    """For `log` a map of names to scalars."""
    type: str
    """Empty for `log`."""
    walltime: float
    step: int
    size: int
    """Bytes that it counts for."""


class Recorder:
    """Takes records from any thread, by one append each; the bus thread takes them out."""

    def __init__(self, max_values: int = MAX_QUEUED_VALUES, max_bytes: int = MAX_QUEUED_BYTES) -> None:
        self.queue: deque[tuple[str, Any, str, float, int, int]] = deque()
        """The fields of records, the oldest first."""
        self.dropped = 0
        """Values that were dropped because the queue was full; only grows."""
        self.last_step = 0
        """The last step that was given: only who trains gives one, so it tells of progress."""
        self.last_walltime = time()
        """When that was."""
        self._max_values = max_values
        self._max_bytes = max_bytes
        # Counted without a lock: two threads that record at once may lose a count, which `emptied` puts right.
        self._values = self._taken_values = 0
        self._bytes = self._taken_bytes = 0

    def append(self, name: str, value: Any, kind: str, step: int | None, values: int = 1, size: int = 0) -> None:
        """Append a record, or drop it where the queue is full; lifecycle events are never dropped.

        Args:
            name: of the event.
            value: what was recorded, which nobody else changes.
            kind: the event's type; empty for `log`.
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
            if step.__class__ is not int:
                step = index(step)
            if not -(2**63) <= step < 2**63:
                raise ValueError(f"the step {step} does not fit 64 bits")
            self.last_step, self.last_walltime = step, walltime
        if (
            self._values - self._taken_values >= self._max_values or self._bytes - self._taken_bytes >= self._max_bytes
        ) and kind != "lifecycle":
            self.dropped += values
            return
        self._values += values
        self._bytes += size
        # A plain tuple: to make a Record of it costs twice as much, and is done on the bus thread.
        self.queue.append((name, value, kind, walltime, step, size))

    def take(self) -> Record:
        """The oldest record; for the bus thread alone, and only if there is one."""
        record = Record._make(self.queue.popleft())
        self._taken_values += 1 if record.type else len(record.value)
        self._taken_bytes += record.size
        return record

    def emptied(self) -> None:
        """Begin to count anew; called by the bus thread when it has found the queue empty."""
        self._values = self._taken_values = self._bytes = self._taken_bytes = 0
