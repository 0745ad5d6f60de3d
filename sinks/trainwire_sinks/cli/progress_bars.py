"""Progress bars for long operations on a run's record, on standard error if that is a terminal."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Final

from trainwire_protocol.errors import ProtocolError
from trainwire_protocol.journal.run_folder import list_attempts, list_ranks
from trainwire_protocol.journal.tail import read_head
from trainwire_protocol.subscription.target import Target
from trainwire_protocol.wire import Cursor

REFRESH_SECONDS: Final = 0.1

Report = Callable[[int], None]
"""Called with the number of events that are done."""


class Length:
    """The number of events that a rank has recorded, as the total of a progress bar.

    Args:
        counts: number of events of each attempt.
    """

    def __init__(self, counts: Mapping[int, int]) -> None:
        self._before: dict[int, int] = {}
        total = 0
        for attempt, count in sorted(counts.items()):
            self._before[attempt] = total
            total += count
        self.total = total or None
        """None if it is unknown."""

    def done(self, cursor: Cursor) -> int:
        """Return the number of events up to and including a position."""
        return self._before.get(cursor.attempt, 0) + cursor.seq + 1


def read_length(target: Target, rank: int) -> Length:
    """Return the length of a rank's record; it is unknown for an address."""
    return Length(_count_by_attempt(target.folder, rank) if target.folder else {})


def count_events(folder: Path) -> int | None:
    """Return the number of events that all ranks of a run have recorded; None if it is unknown."""
    return sum(count for rank in list_ranks(folder) for count in _count_by_attempt(folder, rank).values()) or None


def _count_by_attempt(folder: Path, rank: int) -> dict[int, int]:
    counts: dict[int, int] = {}
    # An error is reported by the command itself when it reads the record.
    with contextlib.suppress(OSError, ProtocolError):
        for attempt in list_attempts(folder, rank):
            counts[attempt.number] = read_head(attempt).head + 1
    return counts


@contextlib.contextmanager
def progress_bar(activity: str | None, total: int | None) -> Iterator[Report]:
    """Show a progress bar until the context ends.

    Args:
        activity: what the bar says is being done; None shows no bar.
        total: number of events; None if it is unknown.
    """
    if activity is None or not sys.stderr.isatty() or os.environ.get("TERM") == "dumb":
        yield lambda _: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True, redirect_stdout=False) as bar:
        task = bar.add_task(activity, total=total)
        updated = -REFRESH_SECONDS

        def report(done: int) -> None:
            nonlocal updated
            now = time.monotonic()
            if now - updated >= REFRESH_SECONDS:
                updated = now
                bar.update(task, completed=done)

        yield report
