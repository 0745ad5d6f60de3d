"""The life of a sink's process: claim, restore, subscribe, handle and commit, end."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Coroutine
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Final

from trainwire_protocol.errors import (
    ClaimedError,
    CursorAheadError,
    IncompleteError,
    OutputError,
    SinkError,
    TrainwireError,
)
from trainwire_protocol.wire import Batch, Cursor
from trainwire_sinks.runtime.base import Sink
from trainwire_sinks.runtime.claim import Claim
from trainwire_sinks.runtime.delivery import Delivery
from trainwire_sinks.runtime.exit_codes import will_pass
from trainwire_sinks.runtime.retry import RetryPolicy
from trainwire_sinks.runtime.source import Acknowledger, BatchSource, Ticker

logger = logging.getLogger("trainwire")

COMMIT_INTERVAL: Final = 1.0
"""Longest time between a batch and the commit that holds it, in seconds."""

CLAIM_WAIT: Final = 3.0
"""How long a sink waits for the one before it to let go of the output, in seconds."""

SETTLE_SECONDS: Final = 60.0
"""How long a sink may take, when the run is over, for what is still on its way."""


Subscribe = Callable[[Cursor, bool], AbstractAsyncContextManager[BatchSource]]
"""Subscribes from a cursor, and if the flag is set leaves out what a resumed run has superseded."""


async def at_once() -> None:
    """Wait for nothing."""


class SinkRunner:
    """Runs one sink on one rank of a run until the run is over, each event taking effect once.

    Args:
        make_sink: makes the sink; a fresh one after each failure.
        subscribe: gives the batches.
        folder: the output folder; made if need be.
        rank: the rank whose events the sink gets.
        run: the run's name, if it is known before its first event: an output of another is then refused at once.
        begun: returns when there is a run; before that nothing is written.
        commit_interval: longest time between a batch and its commit, in seconds.
        retry_policy: how often a sink that fails is tried again.
    """

    def __init__(
        self,
        make_sink: Callable[[], Sink],
        subscribe: Subscribe,
        folder: Path,
        rank: int = 0,
        *,
        run: str | None = None,
        begun: Callable[[], Coroutine[None, None, None]] = at_once,
        commit_interval: float = COMMIT_INTERVAL,
        retry_policy: RetryPolicy | None = None,
    ) -> None:
        self._delivery = Delivery(make_sink, folder, rank, run)
        self._subscribe = subscribe
        self._begun = begun
        self._claim = Claim(folder, self._delivery.sink.name, rank)
        self._commit_interval = commit_interval
        self._retry_policy = retry_policy or RetryPolicy()
        self._skip_superseded = False
        self._commit_due: float | None = None
        self._stopping = asyncio.Event()
        self._wait: asyncio.Timeout | None = None

    async def run(self) -> None:
        """Read until the run is over or `stop` is called, and leave everything committed.

        Raises:
            OutputError: the output cannot be written, is another run's, or another process writes it.
            IncompleteError: events exist that could not be had; what could be had is committed.
            SinkError: the sink kept failing; the last commit stands.
        """
        if not await self._unless_stopped(self._begun()):
            return
        await self._take_claim()
        try:
            await self._keep_reading()
        finally:
            await self._delivery.close()
            self._claim.release()

    def stop(self) -> None:
        """End soon, with everything committed that was handled. Call it on the runner's event loop."""
        self._stopping.set()
        if self._wait is not None:
            # It may have expired in this very turn of the loop.
            with contextlib.suppress(RuntimeError):
                self._wait.reschedule(0)

    async def _take_claim(self) -> None:
        """Claim the output; where a run is resumed at once, the sink of its last attempt may hold it a moment more."""
        give_up = _now() + CLAIM_WAIT
        is_told = False
        while True:
            try:
                return await asyncio.to_thread(self._claim.take)
            except ClaimedError as error:
                if self._stopping.is_set() or _now() >= give_up:
                    raise
                if not is_told:
                    logger.info("%s; waiting %g s for it to end", error, CLAIM_WAIT)
                    is_told = True
            await asyncio.sleep(0.1)

    async def _keep_reading(self) -> None:
        failures = 0
        over = False
        while not over and not self._stopping.is_set():
            before = self._delivery.committed
            try:
                await self._delivery.restore()
                over = await self._read()
            except CursorAheadError as error:
                logger.warning("%s: %s; writing its output anew", self._delivery.sink.name, error)
                await self._delivery.begin()
            except TrainwireError:
                raise
            except Exception as error:
                failures = 1 if self._delivery.committed > before else failures + 1
                await self._pause(error, failures)

    async def _read(self) -> bool:
        """Read to the run's end; False if the output was begun anew and the run has to be read again."""
        self._commit_due = None
        source = self._subscribe(self._delivery.cursor, self._skip_superseded)
        async with source as batches, Acknowledger(batches) as acknowledger:
            ticker = Ticker(batches, lambda: self._delivery.sink)
            incomplete: IncompleteError | None = None
            try:
                if not await self._main_loop(batches, acknowledger, ticker):
                    return False
            except IncompleteError as error:
                incomplete = error
            await self._delivery.commit()
            await acknowledger.send_last(self._delivery.committed)
            await self._settle()
        if incomplete is not None:
            raise incomplete
        return True

    async def _settle(self) -> None:
        """Give the sink time for what is on its way, unless it is to stop."""
        is_settled = await self._unless_stopped(self._delivery.sink.settle(), SETTLE_SECONDS)
        if not is_settled and not self._stopping.is_set():
            name = self._delivery.sink.name
            raise OutputError(f"{name} could not deliver everything in {SETTLE_SECONDS:g} s: start it again to go on")

    async def _unless_stopped(self, waiting: Coroutine[None, None, None], timeout: float | None = None) -> bool:
        """Whether something came to its end before this sink is to stop, or the time is up."""
        awaited, stopping = asyncio.create_task(waiting), asyncio.create_task(self._stopping.wait())
        done, _ = await asyncio.wait({awaited, stopping}, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
        for task in (awaited, stopping):
            task.cancel()
        await asyncio.gather(awaited, stopping, return_exceptions=True)
        if awaited in done:
            awaited.result()
        return awaited in done

    async def _main_loop(self, batches: BatchSource, acknowledger: Acknowledger, ticker: Ticker) -> bool:
        """Handle batches until there are no more, or none are wanted; False if the run has to be read again."""
        while not self._stopping.is_set():
            try:
                batch = await self._next(batches, ticker.due)
            except StopAsyncIteration:
                await ticker.tick(is_over=True)
                break
            if batch is not None and not await self._handle(batch):
                return False
            if ticker.due is not None and _now() >= ticker.due and await ticker.tick():
                self._make_commit_due()
            if self._commit_due is not None and _now() >= self._commit_due:
                await self._delivery.commit()
                self._commit_due = None
                acknowledger.send(self._delivery.committed)
        return True

    async def _next(self, batches: BatchSource, tick_due: float | None) -> Batch | None:
        """The next batch, or None when it is time to commit, to tick or to stop."""
        self._wait = asyncio.timeout_at(
            min((due for due in (self._commit_due, tick_due) if due is not None), default=None)
        )
        try:
            async with self._wait:
                return await anext(batches)
        except TimeoutError:
            if not self._wait.expired():
                raise
            return None
        finally:
            self._wait = None

    async def _handle(self, batch: Batch) -> bool:
        if batch.header.unjournaled:
            # It comes again once it is on the disk, or its loss is recorded; a cursor behind it could not be kept.
            return True
        if not await self._delivery.deliver(batch):
            self._skip_superseded = True
            return False
        self._make_commit_due()
        return True

    def _make_commit_due(self) -> None:
        if self._commit_due is None:
            self._commit_due = _now() + self._commit_interval

    async def _pause(self, error: Exception, failures: int) -> None:
        """Wait before the next try, or give up."""
        name, cursor = self._delivery.sink.name, self._delivery.cursor
        where = f"{name} failed behind attempt {cursor.attempt}, seq {cursor.seq}: {type(error).__name__}: {error}"
        if isinstance(error, OSError) and not will_pass(error):
            raise OutputError(f"{where}; choose another folder with --output, or free this one") from error
        waits = isinstance(error, OSError) and self._delivery.sink.waits_for_output
        if failures > self._retry_policy.retries and not waits:
            gave_up = f"{where}; gave up after {failures} tries. What was committed stands: start it again to go on"
            raise (OutputError if isinstance(error, OSError) else SinkError)(gave_up) from error
        delay = self._retry_policy.delay(failures)
        logger.warning("%s; trying again in %g s", where, delay)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._stopping.wait(), delay)


def _now() -> float:
    return asyncio.get_running_loop().time()
