"""How long a run is, for progress bars."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from pathlib import Path

from trainwire_protocol.ends import read_head
from trainwire_protocol.errors import ProtocolError
from trainwire_protocol.run_folder import list_attempts, list_ranks
from trainwire_protocol.target import Target
from trainwire_protocol.wire import Cursor


class Length:
    """How many events a rank has recorded, and how many of them lie before a position."""

    def __init__(self, counts: Mapping[int, int]) -> None:
        """Take the number of events of each attempt."""
        self._before: dict[int, int] = {}
        total = 0
        for attempt, count in sorted(counts.items()):
            self._before[attempt] = total
            total += count
        self.total = total or None
        """None if it is not known."""

    def done(self, cursor: Cursor) -> int:
        """The events up to and including a position."""
        return self._before.get(cursor.attempt, 0) + cursor.seq + 1


def read_length(target: Target, rank: int) -> Length:
    """The length of a rank's record, as far as its files tell."""
    return Length(_count(target.folder, rank) if target.folder else {})


def count_events(folder: Path) -> int | None:
    """How many events all ranks and attempts of a run have recorded; None if that cannot be known."""
    return sum(count for rank in list_ranks(folder) for count in _count(folder, rank).values()) or None


def _count(folder: Path, rank: int) -> dict[int, int]:
    """By attempt."""
    counts: dict[int, int] = {}
    # Whoever reads the record says what is wrong with it.
    with contextlib.suppress(OSError, ProtocolError):
        for attempt in list_attempts(folder, rank):
            counts[attempt.number] = read_head(attempt).head + 1
    return counts
