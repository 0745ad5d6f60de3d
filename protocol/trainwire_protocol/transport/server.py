"""The publisher's sockets: PUB for batches and heartbeats, ROUTER for requests.

The server runs on its caller's asyncio loop and never waits for a client. PUB drops messages for a slow subscriber, and
a reply that cannot be sent at once is dropped too. Clients notice, and ask again.
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
from trainwire_protocol.transport.connection import Connection
from trainwire_protocol.transport.endpoints import Endpoints
from trainwire_protocol.transport.responder import Responder
from trainwire_protocol.wire import HEARTBEAT, Batch, Cursor, Header, encode_header, topic

HIGH_WATER_MARK: Final = 1000
"""Maximum number of messages queued for a subscriber that does not read; the PUB socket drops further ones."""

MAX_PUBLISHED_BYTES: Final = 256 << 10
"""A batch with a larger body is not published, so that the queue for a subscriber that does not read holds at most
`HIGH_WATER_MARK` times this. Readers notice the gap and get the batch from the journal or by `fetch`."""

MAX_REQUEST_BYTES: Final = 64 << 10
"""Maximum size of a request, in bytes; libzmq disconnects a client that sends a larger one."""

MAX_WAITING_REQUESTS: Final = 64
"""Maximum number of requests that are answered concurrently; further ones wait in the socket."""

MAX_WAITING_REPLIES: Final = 4
"""Maximum number of replies queued for a client that does not read; further ones are dropped."""

_LAST: Final = int(zmq.DONTWAIT)
"""Flags of a message's last frame; a plain int, since combining flags takes as long as sending a frame."""

_MORE: Final = int(zmq.DONTWAIT | zmq.SNDMORE)
"""Flags of the frames before the last."""

_log = logging.getLogger("trainwire")


class ServerContext:
    """What several servers of a process share: a ZeroMQ context, and the authenticator of its TCP sockets."""

    def __init__(self, keys: ServerKeys | None = None) -> None:
        """Open the context, on the running loop.

        Args:
            keys: the keys of the servers and of the clients that may connect; required for TCP endpoints.
        """
        self.zmq = zmq.asyncio.Context()
        self.zmq.set(zmq.MAX_SOCKETS, 8192)
        self.authenticator = Authenticator(self.zmq, keys) if keys else None

    def close(self) -> None:
        """Close the context and its remaining sockets."""
        if self.authenticator:
            self.authenticator.close()
        self.zmq.destroy(linger=0)


class Server:
    """Serves one attempt of one rank to any number of clients."""

    def __init__(
        self,
        attempt: Attempt,
        publish_endpoint: str,
        request_endpoint: str,
        status: Callable[[], Mapping[str, Any]] = dict,
        identity: Callable[[], Mapping[str, Any]] = dict,
        high_water_mark: int = HIGH_WATER_MARK,
        keys: ServerKeys | None = None,
        context: ServerContext | None = None,
    ) -> None:
        """Bind both sockets, on the running loop.

        Args:
            attempt: the attempt to serve.
            publish_endpoint: the endpoint of the PUB socket.
            request_endpoint: the endpoint of the ROUTER socket.
            status: returns what heartbeats and `hello` report about the publisher: its state, its step and so on.
            identity: returns what only `hello` reports: hparams, the process and so on.
            high_water_mark: number of messages queued for a subscriber that does not read.
            keys: the keys of the server and of the clients that may connect; required on TCP without a `context`.
            context: a context, with its keys, that other servers share; None opens one for this server.

        Raises:
            zmq.ZMQError: an endpoint cannot be bound.
        """
        self.heads: dict[str, int] = {}
        self.connection: Connection | None = None
        """The content of the connection file, once it is known."""
        self.responder = Responder(attempt, self.heads, self._describe)
        self._attempt, self._is_over = attempt, False
        self._status, self._identity = status, identity
        self._own_context = None if context else ServerContext(keys)
        shared = context or self._own_context
        assert shared
        # A plain socket: PUB never blocks, and an asyncio socket's future costs more than the send.
        self._publisher = zmq.Context(shared.zmq).socket(zmq.PUB)
        self._publisher_lock = threading.Lock()
        self._send_frame = super(zmq.Socket, self._publisher).send
        self._router = shared.zmq.socket(zmq.ROUTER)
        self._router.set(zmq.MAXMSGSIZE, MAX_REQUEST_BYTES)
        self._router.set(zmq.RCVHWM, MAX_WAITING_REQUESTS)
        self._router.set(zmq.SNDHWM, MAX_WAITING_REPLIES)
        self._publisher.set(zmq.SNDHWM, high_water_mark)
        self._authenticator = shared.authenticator
        if self._authenticator:
            for socket in (self._publisher, self._router):
                secure_server(socket, self._authenticator.keys)
                self._authenticator.watch(socket)
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
        status: Callable[[], Mapping[str, Any]],
        identity: Callable[[], Mapping[str, Any]],
        high_water_mark: int = HIGH_WATER_MARK,
        context: ServerContext | None = None,
    ) -> Server:
        """Return a server bound to these endpoints, which reports them under the names that other hosts reach.

        Raises:
            UsageError: they cannot be bound.
        """
        publish, request = endpoints.publish, endpoints.request
        try:
            server = cls(attempt, publish, request, status, identity, high_water_mark, endpoints.server_keys, context)
        except zmq.ZMQError as error:
            raise UsageError(f"{publish} and {request} cannot be bound: {error}") from error
        server.publish_endpoint, server.request_endpoint = endpoints.advertised(
            server.publish_endpoint, server.request_endpoint
        )
        return server

    @property
    def refused(self) -> int:
        """Number of connections over TCP that were refused."""
        return self._authenticator.refused if self._authenticator else 0

    def continue_with(self, attempt: Attempt) -> None:
        """Serve a later attempt of the same rank from now on."""
        self._attempt = self.responder.attempt = attempt
        self._is_over = False
        self.heads.clear()

    def publish(self, batch: Batch) -> None:
        """Send a batch to all subscribers; thread-safe."""
        header = batch.header
        with self._publisher_lock:
            if not header.unjournaled:
                self.heads[header.channel] = header.seq + header.count - 1
                self._is_over = self._is_over or header.last
            if len(batch.body) <= MAX_PUBLISHED_BYTES:
                self._send(batch.topic, batch.header_bytes, batch.body)

    def beat(self) -> None:
        """Send a heartbeat with the last seq of each channel and the publisher's status; thread-safe."""
        attempt = self._attempt
        body = msgpack.packb({"walltime": time.time(), **self._status()})
        with self._publisher_lock:
            head = max(self.heads.values(), default=-1)
            header = Header(
                attempt.run, attempt.rank, attempt.number, HEARTBEAT, head + 1, 0, dict(self.heads), last=self._is_over
            )
            self._send(topic(HEARTBEAT, attempt.run, attempt.rank), encode_header(header), body)

    async def answer_requests(self) -> None:
        """Answer requests until cancelled; a slow one does not delay the others."""
        slots = asyncio.Semaphore(MAX_WAITING_REQUESTS)
        async with asyncio.TaskGroup() as answers:
            while True:
                await slots.acquire()
                client, *frames = await self._router.recv_multipart(copy=False)
                answer = self._answer(client.bytes, [frame.bytes for frame in frames], self._may_command(client))
                answers.create_task(answer).add_done_callback(lambda _: slots.release())

    async def wait_for_sinks(self, seq: int, timeout: float) -> list[str]:
        """Wait until all sinks have acknowledged `seq`; return the names of those that have not in `timeout` seconds.

        A sink counts while its last acknowledgement has not expired.
        """
        deadline = time.monotonic() + timeout
        while (behind := self._sinks_behind(seq)) and time.monotonic() < deadline:
            await asyncio.sleep(0.01)
        return behind

    def close(self, linger: float) -> None:
        """Close the sockets; messages to subscribers are sent for at most `linger` seconds."""
        if self._authenticator:
            self._authenticator.unwatch(self._router)
            self._authenticator.unwatch(self._publisher)
        self._router.close(linger=0)
        with self._publisher_lock:
            self._publisher.close(linger=int(linger * 1000))
        if self._own_context:
            self._own_context.close()
        self.responder.close()

    def _sinks_behind(self, seq: int) -> list[str]:
        now, end = time.monotonic(), Cursor(self._attempt.number, seq)
        return [name for name, sink in self.responder.sinks.items() if sink.expires > now and sink.cursor < end]

    def _describe(self) -> Mapping[str, Any]:
        over = {"over": True} if self._is_over else {}
        return {"publish": self.publish_endpoint, "refused": self.refused, **over, **self._status(), **self._identity()}

    def _may_command(self, frame: zmq.Frame) -> bool:
        """Return whether the sender of a frame may send commands: over TCP its key decides; on this host, all may."""
        return self._authenticator is None or self._authenticator.may_command(str(frame.get("User-Id")))

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
        # Frame by frame, since the checks of `send_multipart` double the cost, several times per flush.
        with contextlib.suppress(zmq.ZMQError):
            for frame in frames[:-1]:
                self._send_frame(frame, _MORE)
            self._send_frame(frames[-1], _LAST)


def _bind(socket: zmq.Socket[Any], endpoint: str) -> str:
    socket.bind(endpoint)
    return socket.get_string(zmq.LAST_ENDPOINT)
