"""Where a runner gets its batches from, and what else it has to do with whoever publishes them."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Protocol, Self

from trainwire_protocol.transport.live import Heartbeat
from trainwire_protocol.wire import Batch, Cursor
from trainwire_sinks.runtime.base import PublisherStatus, Sink

logger = logging.getLogger("trainwire")


class BatchSource(Protocol):
    """Where batches come from: a `Subscription`, or a recording in a test."""

    @property
    def heartbeat(self) -> Heartbeat | None:
        """The last heartbeat that was heard."""

    @property
    def silence(self) -> float:
        """Seconds for which no sign of the publisher was seen; 0 as long as there are any."""

    def __aiter__(self) -> Self: ...

    async def __anext__(self) -> Batch:
        """The next batch; cancelling it loses none."""

    async def acknowledge(self, cursor: Cursor) -> None:
        """Take note that everything up to `cursor` is committed."""


class Acknowledger:
    """Tells the publisher how far a sink has got; apart from reading, as a trainer that is stopped does not answer."""

    def __init__(self, batches: BatchSource) -> None:
        self._batches = batches
        self._sending: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._sending is not None:
            self._sending.cancel()
            await asyncio.gather(self._sending, return_exceptions=True)

    def send(self, cursor: Cursor) -> None:
        """Tell it, unless the last telling has not come to an end."""
        if self._sending is None or self._sending.done():
            self._sending = asyncio.create_task(self._send(cursor))

    async def send_last(self, cursor: Cursor) -> None:
        """Tell it and wait for that."""
        await self.__aexit__()
        await self._send(cursor)

    async def _send(self, cursor: Cursor) -> None:
        try:
            await self._batches.acknowledge(cursor)
        except Exception as error:
            # What counts is the cursor's file; the publisher only waits a little shorter for who has told it.
            logger.warning("cannot tell the trainer how far this sink has got: %r", error)


class Ticker:
    """Calls the `tick` of a sink that watches the time; the sink may be made anew at any moment."""

    def __init__(self, batches: BatchSource, sink: Callable[[], Sink]) -> None:
        self._batches, self._sink = batches, sink
        self.due: float | None = None
        """When the next call is due, on the loop's clock; None if there is none."""
        self._set_due()

    async def tick(self, *, is_over: bool = False) -> bool:
        """Call it, if the sink wants it; whether there is something to commit.

        Args:
            is_over: the run is over, and everything was handled.
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
