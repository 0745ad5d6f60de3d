"""What a publisher sends as it happens: a SUB socket, from which batches and heartbeats are taken."""

from __future__ import annotations

import time
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, Final

import zmq
import zmq.asyncio

from trainwire_protocol.errors import MalformedBatchError, ProtocolError, RequestError, UnsupportedVersionError
from trainwire_protocol.transport.auth import ClientKeys, secure_client
from trainwire_protocol.transport.polling import Gatherer, SocketPoller
from trainwire_protocol.wire import HEARTBEAT, Batch, Header, decode_batch, topic, unpack_map

HIGH_WATER_MARK: Final = 1000
"""Messages that wait for this reader; further ones are dropped, noticed, and had from the history."""

MAX_MESSAGE_BYTES: Final = 1 << 20
"""Largest message that is accepted; libzmq disconnects a publisher that sends a larger one."""


@dataclass(frozen=True)
class Heartbeat:
    """What a publisher tells of itself each second."""

    header: Header
    """Its `before` has the last journaled seq of each channel."""
    fields: dict[str, Any]
    """`walltime`, `state`, `step`, `step_walltime`, `dropped`; any of them may be missing."""
    heard: float
    """When it came, on this host's monotonic clock."""


def read_heartbeat(batch: Batch) -> Heartbeat | None:
    """The heartbeat that came as this batch without events, or None if it is none that can be read."""
    try:
        return Heartbeat(batch.header, unpack_map(batch.body), time.monotonic())
    except MalformedBatchError:
        return None


class LiveFeed:
    """The batches and heartbeats of one run's rank, as they come and with gaps."""

    def __init__(
        self,
        context: zmq.asyncio.Context,
        endpoint: str,
        run: str,
        rank: int,
        channels: Collection[str],
        high_water_mark: int = HIGH_WATER_MARK,
        keys: ClientKeys | None = None,
        *,
        as_sent: bool = False,
        gatherer: Gatherer | None = None,
    ) -> None:
        """Connect to a publisher; `as_sent` says that batches are not to be looked into.

        Raises:
            RequestError: the endpoint cannot be connected to.
        """
        self._as_sent = as_sent
        self.malformed = 0
        """Messages that could not be read, and were skipped."""
        self._socket: zmq.Socket[bytes] = zmq.Context(context).socket(zmq.SUB)
        self._socket.set(zmq.LINGER, 0)
        self._socket.set(zmq.RCVHWM, high_water_mark)
        self._socket.set(zmq.MAXMSGSIZE, MAX_MESSAGE_BYTES)
        for channel in (*channels, HEARTBEAT):
            self._socket.subscribe(topic(channel, run, rank))
        secure_client(self._socket, keys)
        try:
            self._socket.connect(endpoint)
        except zmq.ZMQError as error:
            # The context that is closed in the end does not know of it, and would wait for ever.
            self._socket.close()
            raise RequestError(f"the publisher's endpoint {endpoint!r:.200} cannot be connected to: {error}") from error
        self._arrivals = SocketPoller(self._socket, gatherer)

    async def receive(self, timeout: float) -> Batch | None:
        """The next batch, or a heartbeat as one without events; None if none came in `timeout` seconds.

        Raises:
            UnsupportedVersionError: a newer major version is spoken there.
        """
        deadline = time.monotonic() + timeout
        while True:
            try:
                batch = self._decode(self._socket.recv_multipart(zmq.NOBLOCK))
            except zmq.Again:
                if not await self._arrivals.wait(deadline - time.monotonic()):
                    return None
            else:
                if batch is not None:
                    return batch

    def is_readable(self, batch: Batch) -> bool:
        """Whether a batch's events can be decoded, if they are to be; apart, since many a batch is not wanted."""
        try:
            return self._as_sent or batch.malformed >= 0
        except MalformedBatchError:
            self.malformed += 1
            return False

    def close(self) -> None:
        """Close the socket."""
        self._arrivals.close()
        self._socket.close()

    def _decode(self, frames: list[bytes]) -> Batch | None:
        try:
            sent_to, header, body = frames
            batch = decode_batch(header, body)
            if batch.topic != sent_to:
                raise MalformedBatchError(f"a batch of {batch.topic!r} that was sent to {sent_to!r:.200}")
        except UnsupportedVersionError:
            raise
        except (ProtocolError, ValueError):
            self.malformed += 1
            return None
        return batch
