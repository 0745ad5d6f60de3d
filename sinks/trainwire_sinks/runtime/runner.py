"""Runs a sink: claims its output, restores the last commit, handles and commits batches, and waits for pending work."""

from __future__ import annotations

import asyncio
import contextlib
import errno
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
    SinkBugError,
    SinkError,
    TrainwireError,
)
from trainwire_protocol.wire import Batch, Cursor
from trainwire_sinks.runtime.claim import Claim
from trainwire_sinks.runtime.delivery import Delivery
from trainwire_sinks.runtime.retry import RetryPolicy
from trainwire_sinks.runtime.sink import Sink
from trainwire_sinks.runtime.source import Acknowledger, BatchSource, Ticker

logger = logging.getLogger("trainwire")

COMMIT_INTERVAL: Final = 1.0
"""Longest time between a batch and its commit, in seconds."""

CLAIM_WAIT: Final = 3.0
"""Longest time to wait for another process to release the output, in seconds."""

SETTLE_SECONDS: Final = 60.0
"""Longest time that a sink may take for its pending work when the run is over, in seconds."""

PERMANENT_ERRORS: Final = frozenset(
    {
        errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENAMETOOLONG,
        errno.ELOOP,
    }
)  # fmt: skip
"""Write errors that last until somebody changes folders or permissions, unlike a full disk."""

Subscribe = Callable[[Cursor, int | None], AbstractAsyncContextManager[BatchSource]]
"""Subscribes from a cursor on, without what an attempt and those before it have superseded; None leaves out nothing."""


class SinkRunner:
    """Runs one sink on one rank of a run until the run is over, so that each event takes effect exactly once.

    Args:
        make_sink: creates the sink; called again after each failure.
        subscribe: opens the source of the batches.
        folder: the output folder; created if it does not exist.
        rank: the rank whose events the sink receives.
        run: the run's name, if it is known before its first event; an output of another run is then refused at once.
        wait_for_run: returns once the run exists; nothing is written before that.
        commit_interval: longest time between a batch and its commit, in seconds.
        retry_policy: when and how often a sink that raises one of its `retries_on` is run again.
    """

    def __init__(
        self,
        make_sink: Callable[[], Sink],
        subscribe: Subscribe,
        folder: Path,
        rank: int = 0,
        *,
        run: str | None = None,
        wait_for_run: Callable[[], Coroutine[None, None, None]] | None = None,
        commit_interval: float = COMMIT_INTERVAL,
        retry_policy: RetryPolicy | None = None,
    ) -> None:
        self._delivery = Delivery(make_sink, folder, rank, run)
        self._subscribe = subscribe
        self._wait_for_run = wait_for_run
        self._claim = Claim(folder, self._delivery.sink.name, rank)
        self._commit_interval = commit_interval
        self._retry_policy = retry_policy or RetryPolicy()
        self._superseded_by: int | None = None
        """The attempt as of whose start the output is rewritten."""
        self._commit_due: float | None = None
        self._stopping = asyncio.Event()
        self._batch_timeout: asyncio.Timeout | None = None

    async def run(self) -> None:
        """Read until the run is over or `stop` is called, and commit everything.

        Raises:
            OutputError: the output cannot be written, belongs to another run, or is being written by another process.
            IncompleteError: some events are unavailable; everything before them is committed.
            SinkError: the sink kept raising, or raised an error that shows a bug; the last commit stands.
        """
        if self._wait_for_run is not None and not await self._finish_or_stop(self._wait_for_run()):
            return
        await self._take_claim()
        try:
            await self._read_with_retries()
        finally:
            await self._delivery.close()
            self._claim.release()

    def stop(self) -> None:
        """End soon, with every handled event committed. Call it on the runner's event loop."""
        self._stopping.set()
        if self._batch_timeout is not None:
            # It may have expired in the current iteration of the loop.
            with contextlib.suppress(RuntimeError):
                self._batch_timeout.reschedule(0)

    async def _take_claim(self) -> None:
        """Claim the output; the sink of the previous attempt may hold it a moment longer if the run is resumed."""
        deadline = _now() + CLAIM_WAIT
        is_reported = False
        while True:
            try:
                return await asyncio.to_thread(self._claim.take)
            except ClaimedError as error:
                if self._stopping.is_set() or _now() >= deadline:
                    raise
                if not is_reported:
                    logger.info("%s; waiting %g s for it to end", error, CLAIM_WAIT)
                    is_reported = True
            await asyncio.sleep(0.1)

    async def _read_with_retries(self) -> None:
        failures = 0
        is_over = False
        while not is_over and not self._stopping.is_set():
            before = self._delivery.committed
            try:
                await self._delivery.restore()
                is_over = await self._read()
            except CursorAheadError as error:
                logger.warning("%s: %s; rewriting its output", self._delivery.sink.name, error)
                await self._delivery.start_over()
            except TrainwireError:
                raise
            except Exception as error:
                failures = 1 if self._delivery.committed > before else failures + 1
                await self._wait_to_retry(error, failures)

    async def _read(self) -> bool:
        """Read to the end of the run; return False if the output was emptied and the run must be read again."""
        self._commit_due = None
        source = self._subscribe(self._delivery.cursor, self._superseded_by)
        async with source as batches, Acknowledger(batches, lambda: self._delivery.committed) as acknowledger:
            ticker = Ticker(batches, lambda: self._delivery.sink)
            incomplete: IncompleteError | None = None
            try:
                if not await self._main_loop(batches, acknowledger, ticker):
                    return False
            except IncompleteError as error:
                incomplete = error
            await self._delivery.commit()
            await acknowledger.send_now()
            await self._settle()
        if incomplete is not None:
            raise incomplete
        return True

    async def _main_loop(self, batches: BatchSource, acknowledger: Acknowledger, ticker: Ticker) -> bool:
        """Handle and commit batches until the run is over or `stop` is called; return False as `_read` does."""
        while not self._stopping.is_set():
            try:
                batch = await self._next_batch(batches, ticker.due)
            except StopAsyncIteration:
                await ticker.tick(is_over=True)
                break
            # An unjournaled batch arrives again once it is on disk, or its loss is recorded; skip it until then.
            if batch is not None and not batch.header.unjournaled:
                if not await self._delivery.deliver(batch):
                    self._superseded_by = batch.header.attempt
                    return False
                self._schedule_commit()
            if ticker.due is not None and _now() >= ticker.due and await ticker.tick():
                self._schedule_commit()
            if self._commit_due is not None and _now() >= self._commit_due:
                await self._delivery.commit()
                self._commit_due = None
                acknowledger.send()
        return True

    async def _next_batch(self, batches: BatchSource, tick_due: float | None) -> Batch | None:
        """Return the next batch, or None when it is time to commit, to tick or to stop."""
        self._batch_timeout = asyncio.timeout_at(
            min((due for due in (self._commit_due, tick_due) if due is not None), default=None)
        )
        try:
            async with self._batch_timeout:
                return await anext(batches)
        except TimeoutError:
            if not self._batch_timeout.expired():
                raise
            return None
        finally:
            self._batch_timeout = None

    def _schedule_commit(self) -> None:
        if self._commit_due is None:
            self._commit_due = _now() + self._commit_interval

    async def _settle(self) -> None:
        """Give the sink time for its pending work, unless `stop` is called."""
        is_settled = await self._finish_or_stop(self._delivery.sink.settle(), SETTLE_SECONDS)
        if not is_settled and not self._stopping.is_set():
            name = self._delivery.sink.name
            raise OutputError(
                f"{name} could not deliver everything in {SETTLE_SECONDS:g} s: start it again to deliver the rest"
            )

    async def _finish_or_stop(self, work: Coroutine[None, None, None], timeout: float | None = None) -> bool:
        """Return whether the coroutine finished before `stop` was called or the timeout passed."""
        working, stopping = asyncio.create_task(work), asyncio.create_task(self._stopping.wait())
        done, _ = await asyncio.wait({working, stopping}, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
        for task in (working, stopping):
            task.cancel()
        await asyncio.gather(working, stopping, return_exceptions=True)
        if working in done:
            working.result()
        return working in done

    async def _wait_to_retry(self, error: Exception, failures: int) -> None:
        """Wait before the next attempt, or raise if there must not be one."""
        name, cursor = self._delivery.sink.name, self._delivery.cursor
        failure = f"{name} failed after attempt {cursor.attempt}, seq {cursor.seq}: {type(error).__name__}: {error}"
        if not isinstance(error, self._delivery.sink.retries_on):
            message = f"{failure}; once the sink is corrected, start it again to continue from the last commit"
            raise SinkBugError(message) from error
        if isinstance(error, OSError) and error.errno in PERMANENT_ERRORS:
            raise OutputError(f"{failure}; choose another folder with --output, or make this one writable") from error
        waits = isinstance(error, OSError) and self._delivery.sink.waits_for_output
        if failures > self._retry_policy.retries and not waits:
            message = f"{failure}; gave up after {failures} attempts: start it again to continue from the last commit"
            raise (OutputError if isinstance(error, OSError) else SinkError)(message) from error
        delay = self._retry_policy.delay(failures)
        logger.warning("%s; retrying in %g s", failure, delay)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._stopping.wait(), delay)


def _now() -> float:
    return asyncio.get_running_loop().time()
