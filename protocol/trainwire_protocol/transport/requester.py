"""The client's side of requests: a DEALER socket that asks, and matches the answers by their id."""

from __future__ import annotations

import asyncio
import contextlib
from itertools import count
from typing import Any, Final

import msgpack
import zmq
import zmq.asyncio

from trainwire_protocol.errors import ProtocolError, RefusedError, RequestError
from trainwire_protocol.transport.auth import ClientKeys, secure_client
from trainwire_protocol.transport.polling import Monitor
from trainwire_protocol.wire import MAX_BODY_BYTES, refuse_newer, unpack_map

REPLY_SECONDS: Final = 5.0
"""How long an answer is waited for before it counts as lost."""

MAX_REPLY_BYTES: Final = 4 << 20
"""Largest head of an answer: that of `hello` holds the run's hparams."""

MAX_FRAME_BYTES: Final = 2 * MAX_BODY_BYTES
"""Largest frame of an answer; libzmq disconnects a publisher that sends a larger one."""


class Requester:
    """Asks one publisher."""

    def __init__(self, context: zmq.asyncio.Context, endpoint: str, keys: ClientKeys | None = None) -> None:
        self._socket = context.socket(zmq.DEALER)
        self._socket.set(zmq.LINGER, 0)
        self._socket.set(zmq.MAXMSGSIZE, MAX_FRAME_BYTES)
        self._monitor = Monitor(context, self._socket, zmq.EVENT_HANDSHAKE_FAILED_AUTH, self._note_refusal)
        self._is_refused = False
        self.endpoint: str | None = None
        self.keys: ClientKeys | None = None
        self.connect(endpoint, keys)
        self._ids = count()
        self._waiting: dict[int, asyncio.Future[tuple[dict[str, Any], list[bytes]]]] = {}
        self._receiving = asyncio.ensure_future(self._receive())

    def connect(self, endpoint: str, keys: ClientKeys | None = None) -> None:
        """From now on ask the publisher at `endpoint`: that of a further attempt is elsewhere."""
        if (endpoint, keys) == (self.endpoint, self.keys):
            return
        if self.endpoint is not None:
            self._socket.disconnect(self.endpoint)
        self.endpoint, self.keys, self._is_refused = endpoint, keys, False
        secure_client(self._socket, keys)
        self._socket.connect(endpoint)

    async def hello(self, timeout: float = REPLY_SECONDS) -> dict[str, Any]:
        """What the publisher says of itself.

        Raises:
            TimeoutError: it does not answer.
            UnsupportedVersionError: it speaks newer major versions alone.
        """
        hello, _ = await self.ask("hello", timeout=timeout)
        versions = hello.get("versions")
        if not isinstance(versions, tuple) or not versions or not all(type(version) is int for version in versions):
            raise RequestError(f"the publisher says that it speaks the versions {versions!r:.60}")
        refuse_newer(min(versions))
        return hello

    async def ask(
        self, verb: str, *, timeout: float = REPLY_SECONDS, **arguments: Any
    ) -> tuple[dict[str, Any], list[bytes]]:
        """Send a request; the head and the further frames of its answer.

        Raises:
            TimeoutError: none came in time; the publisher may be gone, or busy.
            RefusedError: the publisher refused it; says why.
            RequestError: it lets nobody in with this key.
        """
        identifier = next(self._ids)
        answer = self._waiting[identifier] = asyncio.get_running_loop().create_future()
        try:
            async with asyncio.timeout(timeout):
                await self._socket.send(msgpack.packb({"verb": verb, "id": identifier, **arguments}))
                head, frames = await answer
        except TimeoutError:
            if self._is_refused:
                raise RequestError(f"{self.endpoint} lets nobody in with this key: it is not on its list") from None
            raise
        finally:
            del self._waiting[identifier]
        if "error" in head:
            raise RefusedError(verb, str(head["error"]))
        return head, frames

    async def close(self) -> None:
        """Close the socket; what is waited for is given up."""
        self._receiving.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._receiving
        self._monitor.close()
        self._socket.close()

    def _note_refusal(self, event: int, value: int) -> None:  # noqa: ARG002  # a monitor calls it so
        self._is_refused = True

    async def _receive(self) -> None:
        while True:
            first, *frames = await self._socket.recv_multipart()
            with contextlib.suppress(ProtocolError):
                head = unpack_map(first, MAX_REPLY_BYTES)
                identifier = head.get("id")
                waiting = self._waiting.get(identifier) if isinstance(identifier, int) else None
                if waiting and not waiting.done():
                    waiting.set_result((head, frames))
