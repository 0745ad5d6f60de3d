"""Keeps views up to date: one subscription for each rank, and a look at what stands in the run's folder."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Final

from trainwire_protocol.errors import TrainwireError
from trainwire_protocol.journal.files import run_in_background
from trainwire_protocol.journal.run_folder import list_attempts
from trainwire_protocol.journal.verification import AttemptReport
from trainwire_protocol.subscription.subscription import Subscription
from trainwire_protocol.subscription.target import Target
from trainwire_protocol.wire import START
from trainwire_sinks.inspect.progress import Progress, read_progress
from trainwire_sinks.monitor.alerts import AlertsFile
from trainwire_sinks.monitor.log import MAX_CHARACTERS, Line
from trainwire_sinks.monitor.ranks import Ranks
from trainwire_sinks.monitor.view import View
from trainwire_sinks.text.format import one_line, timestamp

LOOK_SECONDS: Final = 1.0
"""How often heartbeats, sinks, alerts and further attempts are looked for."""

TURN_SECONDS: Final = 0.02
"""How long history is read before the terminal has its turn."""


class Reader:
    """Reads one rank of one run into a view, from the run's beginning.

    Args:
        target: the run; it may not have begun.
        rank: whose stream is read.
        label: what tells it from others that are shown beside it.
        give_up: seconds after which a publisher on another host that has fallen silent is no longer waited for.
        stays: wait for further attempts when the run is over.
        ranks: looks at all ranks of the run, if they are in a folder.
    """

    def __init__(
        self,
        target: Target,
        rank: int,
        label: str,
        *,
        give_up: float | None = None,
        stays: bool = True,
        ranks: Ranks | None = None,
    ) -> None:
        self.target = target
        self.rank = rank
        self.view = View(label)
        self._give_up = give_up
        self._stays = stays
        self._subscription: Subscription | None = None
        self._alerts = AlertsFile(target.folder, rank) if target.folder else None
        self._ranks = ranks
        self._last_batch = time.monotonic()

    async def run(self) -> None:
        """Read until the run is over and, if it stays, cannot go on."""
        over = asyncio.Event()
        looking = asyncio.create_task(self._look_until(over))
        try:
            while await self._follow() and await self._goes_on():
                pass
            over.set()
            await looking  # a file is not read by two at once
            await self._look(is_last=True)
        finally:
            looking.cancel()
            await asyncio.gather(looking, return_exceptions=True)

    async def _follow(self) -> bool:
        """Read to the end of what there is; whether that was reached."""
        begin = self.view.cursor
        try:
            async with Subscription(
                self.target, rank=self.rank, cursor=begin, give_up=self._give_up
            ) as self._subscription:
                await self._read(self._subscription)
        except (TrainwireError, OSError) as error:
            self.view.end(str(error))
            return False
        finally:
            self._subscription = None
        self.view.end()
        return True

    async def _read(self, subscription: Subscription) -> None:
        turn = time.monotonic()
        async for batch in subscription:
            self.view.take(batch)
            self._last_batch = time.monotonic()
            if self._last_batch - turn > TURN_SECONDS:
                await asyncio.sleep(0)
                turn = time.monotonic()

    async def _goes_on(self) -> bool:
        """Wait for the run to be resumed; False if it cannot be, or is not to be waited for."""
        folder = self.target.folder
        while self._stays and folder is not None:
            attempts = await run_in_background(list_attempts, folder, self.rank)
            if attempts and attempts[-1].number > self.view.cursor.attempt:
                return True
            await asyncio.sleep(LOOK_SECONDS)
        return False

    async def _look_until(self, over: asyncio.Event) -> None:
        while not over.is_set():
            with contextlib.suppress(OSError):  # it may pass: a file of a shared folder that was just replaced, say
                await self._look()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(over.wait(), LOOK_SECONDS)

    async def _look(self, *, is_last: bool = False) -> None:
        heartbeat = self._subscription.heartbeat if self._subscription else None
        if heartbeat:
            self.view.hear(heartbeat)
        elif self.view.cursor != START and time.monotonic() - self._last_batch > LOOK_SECONDS:
            self.view.is_caught_up = True
        if self._alerts:
            self.view.alerts = await run_in_background(self._alerts.read)
        if self._ranks:
            self.view.ranks = await run_in_background(self._ranks.read_anew if is_last else self._ranks.read)
        self.view.sinks = await run_in_background(self._read_sinks)

    def _read_sinks(self) -> Sequence[Progress]:
        view, folder = self.view, self.target.folder
        if folder is None or view.run is None:
            return ()
        reports = [
            AttemptReport(self.rank, attempt, head=max(heads.values(), default=-1), heads=dict(heads))
            for attempt, heads in list(view.heads.items())
        ]
        sinks = [sink for sink in read_progress(view.run, folder, reports) if sink.rank == self.rank]
        # As long as the run goes on, a sink may have read what has not arrived here yet.
        return sinks if view.is_over else [replace(sink, ahead=0) for sink in sinks]


@contextlib.contextmanager
def logging_into_views(readers: Sequence[Reader]) -> Iterator[None]:
    """Have what is logged about a run stand in the log that is shown of it, and nowhere else on the screen."""
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
        text = record.getMessage()
        line = Line(
            timestamp(record.created, separator=" "),
            record.levelname,
            one_line(f"trainwire watch: {text}"[:MAX_CHARACTERS]),
        )
        about = [reader for reader in self._readers if str(reader.target) in text]
        for reader in about or self._readers:
            reader.view.log.put(line)
