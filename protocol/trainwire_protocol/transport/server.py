"""The publisher's sockets: a PUB socket for batches and heartbeats, a ROUTER socket for requests.

The server runs on its caller's asyncio loop and never waits for a client: PUB drops what a slow subscriber does not
take, and a reply that cannot be sent at once is dropped too. Clients notice, and ask again.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, Final

import msgpack
import zmq
import zmq.asyncio

from trainwire_protocol.errors import UsageError
from trainwire_protocol.journal.run_folder import Attempt
from trainwire_protocol.transport.auth import Authenticator, ServerKeys, secure_server
from trainwire_protocol.transport.endpoints import Endpoints
from trainwire_protocol.transport.responder import Responder
from trainwire_protocol.wire import HEARTBEAT, Batch, Cursor, Header, encode_header, topic

HIGH_WATER_MARK: Final = 1000
"""Messages that the PUB socket keeps for a subscriber that does not read; then it drops them."""

MAX_PUBLISHED_BYTES: Final = 256 << 10
"""A batch with a larger body is not sent by PUB, so that subscribers that do not read hold at most
`HIGH_WATER_MARK` times this; readers notice the gap and get it from the journal or by `fetch`."""

MAX_REQUEST_BYTES: Final = 64 << 10
"""Largest request; libzmq drops a client that sends a larger one."""

MAX_WAITING_REQUESTS: Final = 64
"""Requests that are being answered at once; further ones wait in their sockets."""

MAX_WAITING_REPLIES: Final = 4
"""Replies that are kept for a client that does not read; further ones are dropped, and can be asked for again."""

_LAST: Final = int(zmq.DONTWAIT)
"""Flags of a message's last frame; a plain number, since flags are combined as slowly as a frame is sent."""

_MORE: Final = int(zmq.DONTWAIT | zmq.SNDMORE)
"""Flags of the frames before it."""

_log = logging.getLogger("trainwire")


class ServerContext:
    """What the servers of a process can share: a ZeroMQ context, and the keeper of its door."""

    def __init__(self, keys: ServerKeys | None = None) -> None:
        """Open it, on the running loop.

        Args:
            keys: the servers', and those of the clients that are let in; TCP endpoints need them.
        """
        self.zmq = zmq.asyncio.Context()
        self.zmq.set(zmq.MAX_SOCKETS, 8192)
        self.door = Authenticator(self.zmq, keys) if keys else None

    def close(self) -> None:
        """Close it, and what is left of its sockets."""
        if self.door:
            self.door.stop()
        self.zmq.destroy(linger=0)


class Server:
    """Serves one attempt of one rank to any number of clients."""

    def __init__(
        self,
        attempt: Attempt,
        publish_endpoint: str,
        request_endpoint: str,
        describe: Callable[[], Mapping[str, Any]] = dict,
        introduce: Callable[[], Mapping[str, Any]] = dict,
        high_water_mark: int = HIGH_WATER_MARK,
        keys: ServerKeys | None = None,
        context: ServerContext | None = None,
    ) -> None:
        """Bind both sockets.

        Args:
            attempt: what is served.
            publish_endpoint: of the PUB socket.
            request_endpoint: of the ROUTER socket.
            describe: gives what heartbeats and `hello` tell of the publisher: its state, step …
            introduce: gives what only `hello` tells: hparams, process …
            high_water_mark: messages kept for a subscriber that does not read.
            keys: the server's, and those of the clients that are let in; TCP endpoints need them.
            context: shared with other servers, with the keys that it was opened with; left out, it has its own.

        Raises:
            zmq.ZMQError: an endpoint cannot be bound.
        """
        self.heads: dict[str, int] = {}
        self.responder = Responder(attempt, self.heads, self._describe_all)
        self._attempt = attempt
        self._describe, self._introduce = describe, introduce
        self._own_context = None if context else ServerContext(keys)
        shared = context or self._own_context
        assert shared
        # No asyncio socket: PUB never blocks, and a future would cost more than the send.
        self._publisher = zmq.Context(shared.zmq).socket(zmq.PUB)
        self._publishing = threading.Lock()
        self._send_frame = super(zmq.Socket, self._publisher).send
        self._router = shared.zmq.socket(zmq.ROUTER)
        self._router.set(zmq.MAXMSGSIZE, MAX_REQUEST_BYTES)
        self._router.set(zmq.RCVHWM, MAX_WAITING_REQUESTS)
        self._router.set(zmq.SNDHWM, MAX_WAITING_REPLIES)
        self._publisher.set(zmq.SNDHWM, high_water_mark)
        self._door = shared.door
        if self._door:
            for socket in (self._publisher, self._router):
                secure_server(socket, self._door.keys)
                self._door.guard(socket)
        try:
            self.publish_endpoint = _bind(self._publisher, publish_endpoint)
            self.request_endpoint = _bind(self._router, request_endpoint)
        except zmq.ZMQError:
            self.close(linger=0)
            raise

    @classmethod
    def open(
        cls,
        attempt: Attempt,
        endpoints: Endpoints,
        describe: Callable[[], Mapping[str, Any]],
        introduce: Callable[[], Mapping[str, Any]],
        high_water_mark: int = HIGH_WATER_MARK,
        context: ServerContext | None = None,
    ) -> Server:
        """A server at these endpoints, that tells them as clients on other hosts know them.

        Raises:
            UsageError: they cannot be bound.
        """
        publish, request = endpoints.publish, endpoints.request
        try:
            server = cls(
                attempt, publish, request, describe, introduce, high_water_mark, endpoints.server_keys, context
            )
        except zmq.ZMQError as error:
            raise UsageError(f"{publish} and {request} cannot be bound: {error}") from error
        server.publish_endpoint, server.request_endpoint = endpoints.advertised(
            server.publish_endpoint, server.request_endpoint
        )
        return server

    @property
    def refused(self) -> int:
        """Connections over TCP that were refused."""
        return self._door.refused if self._door else 0

    def continue_with(self, attempt: Attempt) -> None:
        """Serve a later attempt of the same rank from now on."""
        self._attempt = self.responder.attempt = attempt
        self.heads.clear()

    def publish(self, batch: Batch) -> None:
        """Send a batch to whoever subscribes, and forget it; from any thread."""
        header = batch.header
        with self._publishing:
            if not header.unjournaled:
                self.heads[header.channel] = header.seq + header.count - 1
            if len(batch.body) <= MAX_PUBLISHED_BYTES:
                self._send(batch.topic, batch.header_bytes, batch.body)

    def beat(self) -> None:
        """Send a heartbeat: the last seq of each channel, and what `describe` tells."""
        attempt = self._attempt
        body = msgpack.packb({"walltime": time.time(), **self._describe()})
        with self._publishing:
            head = max(self.heads.values(), default=-1)
            header = Header(attempt.run, attempt.rank, attempt.number, HEARTBEAT, head + 1, 0, dict(self.heads))
            self._send(topic(HEARTBEAT, attempt.run, attempt.rank), encode_header(header), body)

    async def answer_requests(self) -> None:
        """Answer requests until cancelled; one that takes long does not hold up the others."""
        places = asyncio.Semaphore(MAX_WAITING_REQUESTS)
        async with asyncio.TaskGroup() as answers:
            while True:
                await places.acquire()
                client, *frames = await self._router.recv_multipart(copy=False)
                answering = self._answer(client.bytes, [frame.bytes for frame in frames], self._may_command(client))
                answers.create_task(answering).add_done_callback(lambda _: places.release())

    async def wait_for_sinks(self, seq: int, timeout: float) -> list[str]:
        """Wait until every sink that acknowledges has got to `seq`; the names of those that have not in time."""
        deadline = time.monotonic() + timeout
        while (behind := self._behind(seq)) and time.monotonic() < deadline:
            await asyncio.sleep(0.01)
        return behind

    def close(self, linger: float) -> None:
        """Close the sockets; what is on its way to subscribers has at most `linger` seconds to leave."""
        if self._door:
            self._door.leave(self._router)
            self._door.leave(self._publisher)
        self._router.close(linger=0)
        with self._publishing:
            self._publisher.close(linger=int(linger * 1000))
        if self._own_context:
            self._own_context.close()
        self.responder.close()

    def _behind(self, seq: int) -> list[str]:
        now, wanted = time.monotonic(), Cursor(self._attempt.number, seq)
        return [name for name, sink in self.responder.sinks.items() if sink.expires > now and sink.cursor < wanted]

    def _describe_all(self) -> Mapping[str, Any]:
        return {"publish": self.publish_endpoint, "refused": self.refused, **self._describe(), **self._introduce()}

    def _may_command(self, frame: zmq.Frame) -> bool:
        """Whether who sent this frame may send commands: over TCP its key says so, on this host everybody may."""
        return self._door is None or self._door.may_command(str(frame.get("User-Id")))

    async def _answer(self, client: bytes, frames: list[bytes], may_command: bool) -> None:
        try:
            reply = await self.responder.answer(frames, client, may_command=may_command)
            if reply:
                await self._router.send_multipart([client, *reply], zmq.DONTWAIT)
        except zmq.ZMQError:
            return
        except Exception:
            _log.exception("a request could not be answered")

    def _send(self, *frames: bytes) -> None:
        # Frame by frame, without what `send_multipart` looks at: half as dear, several times for each flush.
        with contextlib.suppress(zmq.ZMQError):
            for frame in frames[:-1]:
                self._send_frame(frame, _MORE)
            self._send_frame(frames[-1], _LAST)


def _bind(socket: zmq.Socket[Any], endpoint: str) -> str:
    socket.bind(endpoint)
    return socket.get_string(zmq.LAST_ENDPOINT)
