"""Progress bars for work that takes a while: on standard error, and only on a terminal."""

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

Tell = Callable[[int], None]
"""Told how much is done, in the unit of the bar's total."""

REFRESH_SECONDS: Final = 0.1


@contextlib.contextmanager
def progress_bar(what: str | None, total: int | None) -> Iterator[Tell]:
    """Show how far `what` has got, until the context ends; `total` is None if it is not known.

    There is no bar where `what` is None.
    """
    if what is None or not sys.stderr.isatty() or os.environ.get("TERM") == "dumb":
        yield lambda _: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    bars = Progress(*columns, console=Console(stderr=True), transient=True, redirect_stdout=False)
    with bars:
        task = bars.add_task(what, total=total)
        yield _seldom(lambda done: bars.update(task, completed=done))


def _seldom(tell: Tell) -> Tell:
    """`tell`, called no more often than an eye can follow."""
    last = -REFRESH_SECONDS

    def call(done: int) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last >= REFRESH_SECONDS:
            last = now
            tell(done)

    return call


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
