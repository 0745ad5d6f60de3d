"""The client's end of requests: a DEALER socket that matches replies to requests by their id."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import operator
from itertools import count
from typing import Any, Final

import msgpack
import zmq
import zmq.asyncio

from trainwire_protocol.errors import ProtocolError, RefusedError, RequestError
from trainwire_protocol.transport.auth import ClientKeys, secure_client
from trainwire_protocol.transport.polling import SocketMonitor
from trainwire_protocol.wire import MAX_BODY_BYTES, refuse_newer, unpack_map

REPLY_SECONDS: Final = 5.0
"""Time after which a reply counts as lost."""

MAX_REPLY_BYTES: Final = 4 << 20
"""Maximum size of the head of a reply, in bytes."""

MAX_FRAME_BYTES: Final = 2 * MAX_BODY_BYTES
"""Maximum size of a frame of a reply, in bytes; libzmq disconnects a publisher that sends a larger one."""


REASONS: Final[dict[int, str]] = {
    zmq.EVENT_HANDSHAKE_FAILED_AUTH: "the client's key is refused",
    # ZeroMQ does not report which: it drops a peer of another socket type as it drops one with a wrong key.
    zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL: (
        "the connection fails: either this is the port for events, and requests have another, or the publisher's key "
        "is not the one in the key file"
    ),
    zmq.EVENT_CLOSED: "nothing accepts connections there",
}
"""Why there is no reply, by the last event of the connection."""


class Requester:
    """Sends requests to one publisher at a time."""

    def __init__(self, context: zmq.asyncio.Context, endpoint: str, keys: ClientKeys | None = None) -> None:
        """Connect to a publisher, on the running loop."""
        self._socket = context.socket(zmq.DEALER)
        self._socket.set(zmq.LINGER, 0)
        self._socket.set(zmq.MAXMSGSIZE, MAX_FRAME_BYTES)
        self._connection_event = 0
        """The last event of `REASONS`, or that of a connection; 0 before the first one."""
        events = zmq.EVENT_HANDSHAKE_SUCCEEDED | functools.reduce(operator.or_, REASONS)
        self._monitor = SocketMonitor(context, self._socket, events, self._note_connection_event)
        self.endpoint: str | None = None
        self.keys: ClientKeys | None = None
        self.connect(endpoint, keys)
        self._ids = count()
        self._pending: dict[int, asyncio.Future[tuple[dict[str, Any], list[bytes]]]] = {}
        self._receiver = asyncio.ensure_future(self._receive())

    def connect(self, endpoint: str, keys: ClientKeys | None = None) -> None:
        """Send further requests to the publisher at `endpoint`, such as that of the run's next attempt."""
        if (endpoint, keys) == (self.endpoint, self.keys):
            return
        if self.endpoint is not None:
            self._socket.disconnect(self.endpoint)
        self.endpoint, self.keys, self._connection_event = endpoint, keys, 0
        secure_client(self._socket, keys)
        self._socket.connect(endpoint)

    async def hello(self, timeout: float = REPLY_SECONDS) -> dict[str, Any]:
        """Return the publisher's description of itself.

        Raises:
            TimeoutError: the publisher does not reply.
            UnsupportedVersionError: it supports only newer major versions.
            RequestError: the reply is invalid, or the publisher refused the connection.
        """
        hello, _ = await self.request("hello", timeout=timeout)
        versions = hello.get("versions")
        if not isinstance(versions, tuple) or not versions or not all(type(version) is int for version in versions):
            raise RequestError(f"the publisher replied to hello with versions {versions!r:.60}")
        refuse_newer(min(versions))
        return hello

    async def request(
        self, verb: str, *, timeout: float = REPLY_SECONDS, **arguments: Any
    ) -> tuple[dict[str, Any], list[bytes]]:
        """Send a request, and return the head and the remaining frames of the reply.

        Raises:
            TimeoutError: there was no reply in time; gives the reason if the connection failed, and otherwise the
                publisher may be busy.
            RefusedError: the publisher refused the request; gives its reason.
            RequestError: the publisher refused the connection, since the client's key is not on its list.
        """
        identifier = next(self._ids)
        reply = self._pending[identifier] = asyncio.get_running_loop().create_future()
        try:
            async with asyncio.timeout(timeout):
                await self._socket.send(msgpack.packb({"verb": verb, "id": identifier, **arguments}))
                head, frames = await reply
        except TimeoutError:
            if self._connection_event == zmq.EVENT_HANDSHAKE_FAILED_AUTH:
                raise RequestError(f"{self.endpoint} refused this client's key: it is not on its list") from None
            raise TimeoutError(REASONS.get(self._connection_event, "")) from None
        finally:
            del self._pending[identifier]
        if "error" in head:
            raise RefusedError(verb, str(head["error"]))
        return head, frames

    async def close(self) -> None:
        """Close the socket; pending requests get no reply."""
        self._receiver.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._receiver
        self._monitor.close()
        self._socket.close()

    def _note_connection_event(self, event: int, value: int) -> None:  # noqa: ARG002  # the monitor's interface
        self._connection_event = event

    async def _receive(self) -> None:
        while True:
            first, *frames = await self._socket.recv_multipart()
            with contextlib.suppress(ProtocolError):
                head = unpack_map(first, MAX_REPLY_BYTES)
                identifier = head.get("id")
                reply = self._pending.get(identifier) if isinstance(identifier, int) else None
                if reply and not reply.done():
                    reply.set_result((head, frames))
