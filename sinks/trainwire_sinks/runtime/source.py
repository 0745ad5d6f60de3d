"""The source of a runner's batches, the acknowledgement of its commits, and the timing of `tick`."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Protocol, Self

from trainwire_protocol.transport.live import Heartbeat
from trainwire_protocol.wire import Batch, Cursor
from trainwire_sinks.runtime.sink import PublisherStatus, Sink

logger = logging.getLogger("trainwire")


class BatchSource(Protocol):
    """An iterator of batches: a `Subscription`, or a recording in a test."""

    @property
    def heartbeat(self) -> Heartbeat | None:
        """The last heartbeat received."""

    @property
    def silence(self) -> float:
        """Seconds without a heartbeat, an event or a renewed lease; 0 while they arrive."""

    def __aiter__(self) -> Self: ...

    async def __anext__(self) -> Batch:
        """Return the next batch. Cancelling the call loses no batch."""

    async def acknowledge(self, cursor: Cursor) -> None:
        """Report to the publisher that everything up to `cursor` is committed."""


class Acknowledger:
    """Reports commits to the publisher in a separate task, because a stopped trainer does not answer."""

    def __init__(self, batches: BatchSource) -> None:
        self._batches = batches
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    def send(self, cursor: Cursor) -> None:
        """Report a commit, unless the previous report is still being sent."""
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._acknowledge(cursor))

    async def send_last(self, cursor: Cursor) -> None:
        """Report the last commit, and wait until it is sent."""
        await self.__aexit__()
        await self._acknowledge(cursor)

    async def _acknowledge(self, cursor: Cursor) -> None:
        try:
            await self._batches.acknowledge(cursor)
        except Exception as error:
            # The cursor file is authoritative; without a report, the trainer only waits for a shorter time at its end.
            logger.warning("cannot report this sink's progress to the trainer: %r", error)


class Ticker:
    """Calls the `tick` of a sink at its interval. `sink` returns the current sink; a retry creates a new one."""

    def __init__(self, batches: BatchSource, sink: Callable[[], Sink]) -> None:
        self._batches, self._sink = batches, sink
        self.due: float | None = None
        """When the next call is due, by the event loop's clock; None if the sink has no interval."""
        self._set_due()

    async def tick(self, *, is_over: bool = False) -> bool:
        """Call the sink's `tick`, if it has an interval.

        Args:
            is_over: whether the run is over and every event was handled.

        Returns:
            whether there is something to commit.
        """
        if self._sink().tick_interval is None:
            return False
        status = PublisherStatus(time.time(), self._batches.heartbeat, self._batches.silence, is_over)
        has_something = await self._sink().tick(status)
        self._set_due()
        return has_something

    def _set_due(self) -> None:
        interval = self._sink().tick_interval
        self.due = None if interval is None else asyncio.get_running_loop().time() + interval
