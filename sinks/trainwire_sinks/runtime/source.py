"""The source of a runner's batches, the acknowledgement of its commits, and the timing of `tick`."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable
from typing import Final, Protocol, Self

from trainwire_protocol.transport.live import Heartbeat
from trainwire_protocol.wire import Batch, Cursor
from trainwire_sinks.runtime.sink import PublisherStatus, Sink

REPEAT_SECONDS: Final = 10.0
"""Interval at which a position is reported again; the publisher forgets it after 30 seconds."""

RETRY_SECONDS: Final = 1.0
"""Interval at which it is reported until the publisher confirms it."""

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

    async def acknowledge(self, cursor: Cursor) -> bool:
        """Report to the publisher that everything up to `cursor` is committed; return whether it confirms."""


class Acknowledger:
    """Reports the sink's position to the publisher in a separate task, because a stopped trainer does not answer.

    It is reported from the start, and again and again: a closing trainer waits only for sinks that have reported within
    the last half minute.

    Args:
        batches: the subscription.
        position: returns the position up to which everything is committed.
    """

    def __init__(self, batches: BatchSource, position: Callable[[], Cursor]) -> None:
        self._batches, self._position = batches, position
        self._due = asyncio.Event()

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._repeat())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    def send(self) -> None:
        """Report the position soon, because it has changed."""
        self._due.set()

    async def send_now(self) -> None:
        """Report the position, and wait until it is sent."""
        await self._acknowledge()

    async def _repeat(self) -> None:
        while True:
            self._due.clear()
            seconds = REPEAT_SECONDS if await self._acknowledge() else RETRY_SECONDS
            # Not `wait_for`, which in Python 3.11 may ignore that the task is cancelled.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await self._due.wait()

    async def _acknowledge(self) -> bool:
        try:
            return await self._batches.acknowledge(self._position())
        except Exception as error:
            # The cursor file is authoritative; without a report, the trainer only waits for a shorter time at its end.
            logger.warning("cannot report this sink's progress to the trainer: %r", error)
            return True


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
