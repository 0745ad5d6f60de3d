"""Progress bars for work that takes a while: on standard error, and only on a terminal."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Callable, Iterator
from typing import Final

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
