"""The reader's end of the wire: every event of the wanted channels, in order, once, from a given position.

PUB and SUB drop messages by design. A subscription notices, by the `before` of each batch, and gets what it missed
from the history: the journal's files, or the publisher.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Collection, Mapping
from types import TracebackType
from typing import Any, Final, Self

import zmq.asyncio

from trainwire_protocol.errors import ProtocolError, RequestError
from trainwire_protocol.journal.segments import READ_BYTES
from trainwire_protocol.subscription.follower import Follower
from trainwire_protocol.subscription.source import Source, Wanted
from trainwire_protocol.subscription.target import Target
from trainwire_protocol.transport.live import HIGH_WATER_MARK, Heartbeat
from trainwire_protocol.transport.polling import Gatherer
from trainwire_protocol.wire import START, Batch, Cursor

READ_AHEAD_BATCHES: Final = 64
"""Batches that are read before they are asked for."""


class _ReadAhead(asyncio.Queue[Batch | Exception]):
    """Batches that were read before they are asked for, and at last why there are no more."""

    def __init__(self, max_bytes: int) -> None:
        super().__init__()
        self._max_bytes, self._bytes = max_bytes, 0

    def full(self) -> bool:
        """Whether no more are to be read."""
        return self.qsize() >= READ_AHEAD_BATCHES or self._bytes >= self._max_bytes

    def _put(self, item: Batch | Exception) -> None:
        super()._put(item)
        self._bytes += _size(item)

    def _get(self) -> Batch | Exception:
        item = super()._get()
        self._bytes -= _size(item)
        return item


def _size(item: Batch | Exception) -> int:
    return len(item.body) if isinstance(item, Batch) else 0


class Subscription:
    """An asynchronous iterator of the batches of one run's rank, which ends when the run is over.

    Cancelling a pending `anext` loses nothing.
    """

    def __init__(
        self,
        target: Target,
        *,
        rank: int = 0,
        channels: Collection[str] = ("event",),
        cursor: Cursor = START,
        from_now: bool = False,
        follow: bool = True,
        skip_superseded: bool = False,
        give_up: float | None = None,
        name: str | None = None,
        use_journal: bool = True,
        high_water_mark: int = HIGH_WATER_MARK,
        read_ahead_bytes: int = READ_BYTES,
        context: zmq.asyncio.Context | None = None,
        gatherer: Gatherer | None = None,
        as_sent: bool = False,
    ) -> None:
        """Set up what is wanted; nothing is opened before the subscription is entered.

        Args:
            target: the run; it may not have begun yet.
            rank: whose stream is read.
            channels: `event`, `media` or both.
            cursor: everything after it is delivered.
            from_now: begin with what is recorded from now on, for live views; `cursor` is not looked at.
            follow: False to end with what is recorded by now, be the run over or not; it has to have begun.
            skip_superseded: leave out what a later attempt has superseded.
            give_up: seconds after which a publisher of which nothing is heard, and which cannot be known to be gone,
                is no longer waited for.
            name: under which `acknowledge` tells the publisher how far this reader has got.
            use_journal: False to get history by `fetch` though the journal could be read.
            high_water_mark: live messages that wait for this reader before more are dropped.
            read_ahead_bytes: how much of the history is had at once; and once as much waits to be asked for, nothing
                more is read.
            context: for its sockets, where many subscriptions share one; left out, it has its own.
            gatherer: looks at what comes live, where many subscriptions share one.
            as_sent: deliver batches without a look at their events, also such that cannot be read: for copies.
        """
        self._wanted = Wanted(
            target, rank, tuple(channels), use_journal, high_water_mark, read_ahead_bytes, context, gatherer, as_sent
        )
        self.acknowledged: float | None = None
        """When the publisher last took note of an acknowledgement, on the monotonic clock."""
        self._cursor = None if from_now else cursor
        self._skip_superseded, self._give_up, self._name = skip_superseded, give_up, name
        self._follow = follow

    async def __aenter__(self) -> Self:
        """Begin to read."""
        self._source = Source(self._wanted)
        self._follower = Follower(
            self._source, self._cursor, follow=self._follow,
            skip_superseded=self._skip_superseded, give_up=self._give_up,
        )  # fmt: skip
        self._ready = _ReadAhead(self._wanted.read_ahead_bytes)
        self._reading = asyncio.ensure_future(self._read())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop reading and close everything."""
        self._reading.cancel()
        try:
            await asyncio.gather(self._reading, return_exceptions=True)
        finally:
            await self._source.close()

    @property
    def gaps(self) -> int:
        """Places at which wanted events are in no source any more; reading goes on behind them."""
        return self._follower.gaps

    @property
    def malformed(self) -> int:
        """Events and messages that could not be read, and were skipped."""
        return self._follower.malformed + self._source.malformed

    @property
    def heartbeat(self) -> Heartbeat | None:
        """The last heartbeat that was heard; None before the first, and none is heard while history is read."""
        return self._follower.heartbeat

    @property
    def silence(self) -> float:
        """Seconds for which no sign of the publisher was seen: no heartbeat, event or renewed lease; 0 while there are.

        It is counted in steps of about half a second, and not while the reader itself was late.
        """
        return self._follower.silence

    def __aiter__(self) -> Self:
        """Itself."""
        return self

    async def __anext__(self) -> Batch:
        """The next batch.

        Raises:
            StopAsyncIteration: the run is over, or not to be followed, and everything was delivered.
            TargetError: there is no run, and none is to be waited for.
            IncompleteError: there is more, but it cannot be had.
            CursorAheadError: the record ends before the cursor, and goes on in a later attempt.
            UnsupportedVersionError: a newer major version is spoken there.
        """
        item = await self._ready.get()
        if isinstance(item, Exception):
            self._ready.put_nowait(item)
            raise item
        return item

    async def ready(self) -> list[Batch]:
        """The next batch and what is there behind it, at most `READ_AHEAD_BATCHES`; raises as `anext` does."""
        batches = [await anext(self)]
        while not self._ready.empty():
            item = self._ready.get_nowait()
            if isinstance(item, Exception):
                self._ready.put_nowait(item)
                break
            batches.append(item)
        return batches

    async def command(self, identifier: str, verb: str, arguments: Mapping[str, Any]) -> None:
        """Hand a command to the publisher.

        Raises:
            RequestError: it does not take it, does not answer, or cannot be reached.
        """
        requester = self._source.requester
        if requester is None:
            raise RequestError(
                "the training cannot be reached: it has not begun, or its connection file cannot be read"
            )
        try:
            await requester.ask("command", command={"id": identifier, "verb": verb, "arguments": dict(arguments)})
        except TimeoutError:
            raise RequestError("the training does not answer") from None

    async def acknowledge(self, cursor: Cursor) -> None:
        """Tell the publisher, if one can be reached, how far the reader called `name` has got."""
        with contextlib.suppress(TimeoutError, ProtocolError):
            if await self._source.acknowledge(cursor, self._name):
                self.acknowledged = time.monotonic()

    async def _read(self) -> None:
        end: Exception = StopAsyncIteration()
        try:
            async for batch in self._follower.batches():
                await self._ready.put(batch)
        except Exception as error:
            end = error
        await self._ready.put(end)
