"""The reader's end of the wire: every event of the requested channels, in order and once, from a given position.

PUB and SUB drop messages by design. A subscription detects a gap from the `before` of each batch, and gets the missing
batches from the history: the journal's files, or the publisher.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Collection, Mapping
from types import TracebackType
from typing import Any, Final, Self

import zmq.asyncio

from trainwire_protocol.errors import ProtocolError, RequestError
from trainwire_protocol.journal.segments import READ_BYTES
from trainwire_protocol.subscription.follower import Follower
from trainwire_protocol.subscription.source import Source, SourceOptions
from trainwire_protocol.subscription.target import Target
from trainwire_protocol.transport.live import HIGH_WATER_MARK, Heartbeat
from trainwire_protocol.transport.polling import CoalescingSelector
from trainwire_protocol.wire import START, Batch, Cursor

READ_AHEAD_BATCHES: Final = 64
"""Batches that are read before the caller asks for them."""


class Subscription:
    """An asynchronous iterator over the batches of one rank of a run, which ends when the run is over.

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
        superseded_by: int | None = None,
        last_attempt: int | None = None,
        give_up: float | None = None,
        name: str | None = None,
        use_journal: bool = True,
        high_water_mark: int = HIGH_WATER_MARK,
        read_ahead_bytes: int = READ_BYTES,
        context: zmq.asyncio.Context | None = None,
        selector: CoalescingSelector | None = None,
        raw: bool = False,
    ) -> None:
        """Set the options; nothing is opened until the subscription is entered.

        Args:
            target: the run; it need not have started yet.
            rank: the rank whose batches are read.
            channels: `event`, `media` or both.
            cursor: deliver everything after it.
            from_now: deliver what is recorded from now on, for live views; `cursor` is ignored.
            follow: False ends with what is recorded now, even if the run continues; the run must have started.
            superseded_by: leave out events that this attempt, or one before it, has superseded; with `LATEST`, the last
                attempt that has begun. None leaves out nothing. Later attempts are read whole.
            last_attempt: end with this attempt, even if the run continues in a later one.
            give_up: seconds to wait for a publisher that is silent but not known to be gone; None waits forever.
            name: the name under which `acknowledge` reports the reader's position to the publisher.
            use_journal: False reads the history by `fetch` even if the journal's files are available.
            high_water_mark: number of live messages queued for this reader before more are dropped.
            read_ahead_bytes: number of bytes of the history to read at a time; as many may wait for the caller.
            context: the context of the sockets, if many subscriptions share it; None opens one for this subscription.
            selector: polls the socket of the live feed, if many subscriptions share one.
            raw: deliver batches without decoding their events, even malformed ones, to copy them.
        """
        self._options = SourceOptions(
            target, rank, tuple(channels), use_journal, high_water_mark, read_ahead_bytes, context, selector, raw
        )
        self._cursor = None if from_now else cursor
        self._superseded_by, self._last_attempt = superseded_by, last_attempt
        self._give_up, self._name = give_up, name
        self._follow = follow

    async def __aenter__(self) -> Self:
        """Start reading."""
        self._source = Source(self._options)
        self._follower = Follower(
            self._source, self._cursor, follow=self._follow, superseded_by=self._superseded_by,
            last_attempt=self._last_attempt, give_up=self._give_up,
        )  # fmt: skip
        self._ready = _ReadAhead(self._options.read_ahead_bytes)
        self._reader = asyncio.ensure_future(self._read())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop reading, and close files and sockets."""
        self._reader.cancel()
        try:
            await asyncio.gather(self._reader, return_exceptions=True)
        finally:
            await self._source.close()

    @property
    def gaps(self) -> int:
        """Places where events of the requested channels are missing from all sources; reading continues after them."""
        return self._follower.gaps

    @property
    def malformed(self) -> int:
        """Events and messages that could not be decoded, and were skipped."""
        return self._follower.malformed + self._source.malformed

    @property
    def heartbeat(self) -> Heartbeat | None:
        """The last heartbeat received, or None before the first; none is received while the history is read."""
        return self._follower.heartbeat

    @property
    def silence(self) -> float:
        """Seconds without a sign of life of the publisher (heartbeat, event or renewed lease); 0 while there are signs.

        It is updated about every half second, and does not count time in which the reader itself was late.
        """
        return self._follower.silence

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Batch:
        """Return the next batch.

        Raises:
            StopAsyncIteration: everything was delivered, and the run is over or `follow` is False.
            TargetError: there is no run, and `follow` is False.
            IncompleteError: more was recorded, but it is unavailable.
            CursorAheadError: the journal ends before the cursor, and continues with a later attempt.
            UnsupportedVersionError: a newer major version recorded or published it.
        """
        item = await self._ready.get()
        if isinstance(item, Exception):
            self._ready.put_nowait(item)
            raise item
        return item

    async def ready(self) -> list[Batch]:
        """Return the next batch and those read ahead, at most `READ_AHEAD_BATCHES`; raises as `anext` does."""
        batches = [await anext(self)]
        while not self._ready.empty():
            item = self._ready.get_nowait()
            if isinstance(item, Exception):
                self._ready.put_nowait(item)
                break
            batches.append(item)
        return batches

    async def command(self, identifier: str, verb: str, arguments: Mapping[str, Any]) -> None:
        """Send a command to the publisher.

        Raises:
            RequestError: the publisher refuses it, does not answer, or cannot be reached.
        """
        requester = self._source.requester
        if requester is None:
            raise RequestError(
                "the training cannot be reached: it has not started, or its connection file cannot be read"
            )
        try:
            await requester.request("command", command={"id": identifier, "verb": verb, "arguments": dict(arguments)})
        except TimeoutError:
            raise RequestError("the training does not answer") from None

    async def acknowledge(self, cursor: Cursor) -> bool:
        """Report the reader's position, under its `name`, to the publisher; return whether it confirms.

        At the end of an attempt this includes the events of channels that the reader did not request.
        """
        end = self._follower.end
        if end is not None and cursor == self._follower.delivered:
            cursor = max(cursor, end)
        with contextlib.suppress(TimeoutError, ProtocolError):
            return await self._source.acknowledge(cursor, self._name)
        return False

    async def _read(self) -> None:
        end: Exception = StopAsyncIteration()
        try:
            async for batch in self._follower.batches():
                await self._ready.put(batch)
        except Exception as error:
            end = error
        await self._ready.put(end)


class _ReadAhead(asyncio.Queue[Batch | Exception]):
    """The batches read ahead, and finally the exception that ends the iteration."""

    def __init__(self, max_bytes: int) -> None:
        super().__init__()
        self._max_bytes, self._bytes = max_bytes, 0

    def full(self) -> bool:
        """Return whether to stop reading ahead."""
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
