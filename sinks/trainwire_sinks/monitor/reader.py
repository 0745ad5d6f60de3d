"""Keeps views up to date, by a subscription for each rank and regular reads of the files in the run's folder."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from math import inf
from pathlib import Path
from typing import Final

from trainwire_protocol.errors import TrainwireError
from trainwire_protocol.journal.attempts import LATEST
from trainwire_protocol.journal.files import run_in_background
from trainwire_protocol.journal.run_folder import list_attempts
from trainwire_protocol.journal.verification import AttemptReport
from trainwire_protocol.subscription.subscription import Subscription
from trainwire_protocol.subscription.target import Target
from trainwire_protocol.wire import START
from trainwire_sinks.inspect.progress import SinkProgress, read_progress
from trainwire_sinks.inspect.ranks import RankOverview, read_ranks
from trainwire_sinks.monitor.alerts import AlertsReader
from trainwire_sinks.monitor.log import MAX_CHARACTERS, Line
from trainwire_sinks.monitor.view import View
from trainwire_sinks.text.format import one_line, timestamp

POLL_SECONDS: Final = 1.0
"""Interval at which heartbeats, sinks, alerts and further attempts are read."""

SLICE_SECONDS: Final = 0.02
"""How long batches are read before the terminal app may run."""

RANKS_SECONDS: Final = 2.0
"""Shortest interval between two reads of all ranks."""

RANKS_TIME_SHARE: Final = 0.05
"""Largest share of the time that is spent on reading all ranks, as a run may have many."""


class RankOverviews:
    """All ranks of the run in a folder, cached and shared by the readers of the run. It is thread-safe.

    Args:
        folder: the run's folder.
        attempt: show the ranks as they were when this attempt ended.
    """

    def __init__(self, folder: Path, attempt: int = LATEST) -> None:
        self._folder, self._attempt = folder, attempt
        self._cached: Sequence[RankOverview] = ()
        self._begun = self._next = -inf
        self._reading = threading.Lock()

    def read(self) -> Sequence[RankOverview]:
        """Return the ranks; read them again if the last read is long enough ago and no read is in progress."""
        now = time.monotonic()
        if now >= self._next and not self._reading.locked():
            self._next = now + RANKS_SECONDS  # meanwhile, other threads get the cached ranks
            self._refresh(now)
        return self._cached

    def read_again(self) -> Sequence[RankOverview]:
        """Return the ranks as they are now, by a read that begins after this call."""
        self._refresh(time.monotonic())
        return self._cached

    def _refresh(self, requested: float) -> None:
        """Read the ranks, unless another thread has begun to read them after `requested`."""
        with self._reading:
            if self._begun >= requested:
                return
            begun = self._begun = time.monotonic()
            self._cached = read_ranks(self._folder, self._attempt)
            seconds = time.monotonic() - begun
            self._next = begun + max(RANKS_SECONDS, seconds / RANKS_TIME_SHARE)


class Reader:
    """Reads one rank of one run into a view, from the run's beginning.

    Args:
        target: the run; it need not have begun.
        rank: the rank to read.
        label: distinguishes the view from others on the same screen.
        give_up: seconds after which to stop waiting for a silent publisher on another host.
        stays: when the run is over, wait for further attempts.
        ranks: all ranks of the run, if the target is a folder.
        attempt: read the run as it stood when this attempt ended, and nothing later; None reads all.
    """

    def __init__(
        self,
        target: Target,
        rank: int,
        label: str,
        *,
        give_up: float | None = None,
        stays: bool = True,
        ranks: RankOverviews | None = None,
        attempt: int | None = None,
    ) -> None:
        self.target = target
        self.rank = rank
        self.attempt = attempt
        self.view = View(label)
        self._give_up = give_up
        self._stays = stays and attempt is None
        self._subscription: Subscription | None = None
        self._alerts = AlertsReader(target.folder, rank, attempt) if target.folder else None
        self._ranks = ranks
        self._last_batch = time.monotonic()

    async def run(self) -> None:
        """Read until the run is over or cannot be read; with `stays`, wait for it to be resumed."""
        over = asyncio.Event()
        polling = asyncio.create_task(self._poll_until(over))
        try:
            while await self._follow() and await self._wait_for_resumption():
                pass
            over.set()
            await polling  # two tasks must not read the alerts file at once
            await self._poll(is_last=True)
        finally:
            polling.cancel()
            await asyncio.gather(polling, return_exceptions=True)

    async def _follow(self) -> bool:
        """Read to the end of the current attempt; return False if it cannot be read."""
        try:
            async with Subscription(
                self.target, rank=self.rank, cursor=self.view.cursor, give_up=self._give_up,
                superseded_by=self.attempt, last_attempt=self.attempt,
            ) as self._subscription:  # fmt: skip
                await self._read_batches(self._subscription)
        except (TrainwireError, OSError) as error:
            self.view.end(str(error))
            return False
        finally:
            self._subscription = None
        self.view.end()
        return True

    async def _read_batches(self, subscription: Subscription) -> None:
        slice_begun = time.monotonic()
        async for batch in subscription:
            self.view.add_batch(batch)
            self._last_batch = time.monotonic()
            if self._last_batch - slice_begun > SLICE_SECONDS:
                await asyncio.sleep(0)
                slice_begun = time.monotonic()

    async def _wait_for_resumption(self) -> bool:
        """Wait for the run's next attempt; return False without waiting unless `stays` and the run has a folder."""
        folder = self.target.folder
        while self._stays and folder is not None:
            attempts = await run_in_background(list_attempts, folder, self.rank)
            if attempts and attempts[-1].number > self.view.cursor.attempt:
                return True
            await asyncio.sleep(POLL_SECONDS)
        return False

    async def _poll_until(self, over: asyncio.Event) -> None:
        while not over.is_set():
            with contextlib.suppress(OSError):  # may be temporary, as when a file on a shared folder is replaced
                await self._poll()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(over.wait(), POLL_SECONDS)

    async def _poll(self, *, is_last: bool = False) -> None:
        """Update the parts of the view that batches do not contain."""
        heartbeat = self._subscription.heartbeat if self._subscription else None
        if heartbeat:
            self.view.add_heartbeat(heartbeat)
        elif self.view.cursor != START and time.monotonic() - self._last_batch > POLL_SECONDS:
            self.view.is_caught_up = True
        if self._alerts:
            self.view.alerts = await run_in_background(self._alerts.read)
        if self._ranks:
            self.view.ranks = await run_in_background(self._ranks.read_again if is_last else self._ranks.read)
        self.view.sinks = await run_in_background(self._read_sinks)

    def _read_sinks(self) -> Sequence[SinkProgress]:
        view, folder = self.view, self.target.folder
        if folder is None or view.run is None:
            return ()
        reports = [
            AttemptReport(self.rank, attempt, head=max(heads.values(), default=-1), heads=dict(heads))
            for attempt, heads in list(view.heads.items())
        ]
        sinks = [sink for sink in read_progress(view.run, folder, reports) if sink.rank == self.rank]
        # A sink may have read events that this reader has not received yet, or does not read.
        is_whole = view.is_over and self.attempt is None
        return sinks if is_whole else [replace(sink, ahead=0) for sink in sinks]


@contextlib.contextmanager
def logging_into_views(readers: Sequence[Reader]) -> Iterator[None]:
    """Show this process's log messages about a run in the log of its view, and nowhere else on the screen."""
    logger = logging.getLogger("trainwire")
    handlers, logger.handlers = logger.handlers, [_ViewHandler(readers)]
    try:
        yield
    finally:
        logger.handlers = handlers


class _ViewHandler(logging.Handler):
    def __init__(self, readers: Sequence[Reader]) -> None:
        super().__init__()
        self._readers = readers

    def emit(self, record: logging.LogRecord) -> None:
        message = record.getMessage()
        text = one_line(f"trainwire watch: {message}"[:MAX_CHARACTERS])
        line = Line(timestamp(record.created, separator=" "), record.levelname, text)
        named = [reader for reader in self._readers if str(reader.target) in message]
        for reader in named or self._readers:
            reader.view.log.append(line)
