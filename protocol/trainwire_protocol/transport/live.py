"""The live feed: a SUB socket that receives a publisher's batches and heartbeats as they are sent."""

from __future__ import annotations

import time
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, Final

import zmq
import zmq.asyncio

from trainwire_protocol.errors import MalformedBatchError, ProtocolError, RequestError, UnsupportedVersionError
from trainwire_protocol.transport.auth import ClientKeys, secure_client
from trainwire_protocol.transport.polling import CoalescingSelector, SocketPoller
from trainwire_protocol.wire import HEARTBEAT, Batch, Header, decode_batch, topic, unpack_map

HIGH_WATER_MARK: Final = 1000
"""Maximum number of messages queued for this reader. ZeroMQ drops further ones; the history still contains them."""

MAX_MESSAGE_BYTES: Final = 1 << 20
"""Maximum size of a message, in bytes; libzmq disconnects a publisher that sends a larger one."""


@dataclass(frozen=True)
class Heartbeat:
    """What a publisher reports about itself each second."""

    header: Header
    """Its `before` contains the last journaled seq of each channel."""
    fields: dict[str, Any]
    """`walltime`, `state`, `step`, `step_walltime`, `dropped`; any of them may be missing."""
    received: float
    """When it was received, on this host's monotonic clock."""


def read_heartbeat(batch: Batch) -> Heartbeat | None:
    """Return the heartbeat in a batch of the heartbeat channel, received now, or None if it is malformed."""
    try:
        return Heartbeat(batch.header, unpack_map(batch.body), time.monotonic())
    except MalformedBatchError:
        return None


class LiveFeed:
    """The batches and heartbeats of one rank as they arrive; some may be missing."""

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
        raw: bool = False,
        selector: CoalescingSelector | None = None,
    ) -> None:
        """Connect to a publisher, on the running loop.

        Args:
            context: the context of the socket.
            endpoint: the endpoint of the publisher's PUB socket.
            run: the name of the run.
            rank: the rank whose batches are received.
            channels: the channels to subscribe to, besides the heartbeats.
            high_water_mark: number of messages queued for this reader before more are dropped.
            keys: the keys to the publisher; required over TCP.
            raw: accept batches without decoding their events.
            selector: polls the socket, if many share one.

        Raises:
            RequestError: the endpoint cannot be connected to.
        """
        self._raw = raw
        self.malformed = 0
        """Messages that could not be decoded, and were skipped."""
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
            # The context does not know this socket, and would wait forever for it when it is closed.
            self._socket.close()
            raise RequestError(f"cannot connect to the publisher's endpoint {endpoint!r:.200}: {error}") from error
        self._poller = SocketPoller(self._socket, selector)

    async def receive(self, timeout: float) -> Batch | None:
        """Return the next batch, or None if none arrived in `timeout` seconds. A heartbeat is a batch without events.

        Raises:
            UnsupportedVersionError: the publisher uses a newer major version.
        """
        deadline = time.monotonic() + timeout
        while True:
            try:
                batch = self._decode(self._socket.recv_multipart(zmq.NOBLOCK))
            except zmq.Again:
                if not await self._poller.wait(deadline - time.monotonic()):
                    return None
            else:
                if batch is not None:
                    return batch

    def is_readable(self, batch: Batch) -> bool:
        """Return whether a batch's events can be decoded. `receive` does not check this, as many are not used."""
        try:
            return self._raw or batch.malformed >= 0
        except MalformedBatchError:
            self.malformed += 1
            return False

    def close(self) -> None:
        """Close the socket."""
        self._poller.close()
        self._socket.close()

    def _decode(self, frames: list[bytes]) -> Batch | None:
        try:
            sent_to, header, body = frames
            batch = decode_batch(header, body)
            if batch.topic != sent_to:
                raise MalformedBatchError(f"a batch of {batch.topic!r} was sent to {sent_to!r:.200}")
        except UnsupportedVersionError:
            raise
        except (ProtocolError, ValueError):
            self.malformed += 1
            return None
        return batch
