"""A real HTTP server that accepts messages, fails, hangs and recovers, and a sink that posts to it."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import signal
import threading
from collections.abc import Callable, Mapping, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from trainwire_protocol.errors import DeliveryRefusedError
from trainwire_protocol.wire import Batch
from trainwire_sinks import Event, Sink
from trainwire_sinks.runtime.delivery_queue import Message
from trainwire_sinks.runtime.outbox import Outbox, message_key
from trainwire_sinks.runtime.retry import SendPolicy
from trainwire_sinks.testing.check_sink import record, run_sink

QUICK = SendPolicy(timeout=0.3, first_delay=0.01, longest_delay=0.05)


class Receiver:
    """Listens on a free port; `answer` maps the value of a message to a status, or to None to hang.

    `read` extracts the value from the body of a message.
    """

    def __init__(
        self,
        answer: Callable[[Any], int | None] = lambda value: 200,
        read: Callable[[Any], Any] = lambda body: body["value"],
    ) -> None:
        self.answer, self.read = answer, read
        self.taken: list[tuple[str, Any]] = []
        """Key and value of each message that was answered with 200, in order."""
        self.tried: list[Any] = []
        self.headers: list[Mapping[str, str]] = []
        """Headers of each attempt."""
        self.released = threading.Event()
        """Set to release the requests that hang."""
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                receiver._take(self)

            def log_message(self, *_: object) -> None:
                return

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.port: int = self._server.server_address[1]

    @property
    def values(self) -> list[Any]:
        """The delivered values, each key once."""
        return list(dict(self.taken).values())

    def _take(self, request: BaseHTTPRequestHandler) -> None:
        value = self.read(json.loads(request.rfile.read(int(request.headers["Content-Length"]))))
        self.tried.append(value)
        self.headers.append(dict(request.headers))
        status = self.answer(value)
        if status is None:
            self.released.wait(20)
            return
        if status == 200:
            self.taken.append((request.headers["Idempotency-Key"], value))
        request.send_response(status)
        if 300 <= status < 400:
            request.send_header("Location", f"http://127.0.0.1:{self.port}/elsewhere")
        request.end_headers()

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.released.set()
        self._server.shutdown()
        self._server.server_close()


async def post(port: int, key: str, message: Message) -> None:
    """Post a message over HTTP."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    body = json.dumps(message).encode()
    head = f"POST / HTTP/1.0\r\nIdempotency-Key: {key}\r\nContent-Length: {len(body)}\r\n\r\n"
    try:
        writer.write(head.encode() + body)
        status = int((await reader.readline()).split()[1])
    finally:
        writer.close()
    if status == 400:
        raise DeliveryRefusedError("bad request")
    if status != 200:
        raise OSError(f"status {status}")


class Poster(Sink):
    """Posts the value of each event called "alert"."""

    name = "poster"

    def __init__(self, port: int, send_policy: SendPolicy = QUICK) -> None:
        super().__init__()
        self.port, self.send_policy = port, send_policy

    output: Outbox

    def make_output(self, folder: Path, rank: int) -> Outbox:
        return Outbox.of_sink(folder, self.name, rank, self.send, self.send_policy)

    async def send(self, key: str, message: Message) -> None:
        await post(self.port, key, message)

    async def handle(self, events: Sequence[Event]) -> None:
        for place, event in enumerate(events):
            if event.name == "alert":
                await self.output.add(message_key(self.batch, place, "test"), {"value": event.value})

    async def settle(self) -> None:
        await self.output.settle()


def alert(value: float) -> Event:
    """Return an event that is posted."""
    return Event("alert", float(value), "scalar", 0.0, int(value))


def alerts(count: int) -> list[Batch]:
    """Return `count` alerts, in batches of two."""
    return record([[alert(number), alert(number + 1)] for number in range(0, count, 2)])


def post_and_die(port: int, folder: Path, at: int) -> None:
    """Post four alerts in a process that is killed at the `at`-th point at which it writes or sends."""
    passed = itertools.count(1)

    def die() -> None:
        if next(passed) == at:
            os.kill(os.getpid(), signal.SIGKILL)

    def make_mortal(owner: Any, name: str) -> None:
        original = getattr(owner, name)

        def between(*arguments: Any, **options: Any) -> Any:
            die()
            result = original(*arguments, **options)
            die()
            return result

        setattr(owner, name, between)

    class Mortal(Poster):
        async def send(self, key: str, message: Message) -> None:
            die()
            await super().send(key, message)
            die()

    for name in ("fsync", "replace", "truncate"):
        make_mortal(os, name)
    run_sink(lambda: Mortal(port), folder, alerts(4))
