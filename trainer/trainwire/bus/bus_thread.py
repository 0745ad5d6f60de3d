"""The bus thread: an asyncio loop that answers requests, sends heartbeats, and ends the run.

Records do not pass through it, since one iteration of the loop takes several times as long as the writer does.
It helps the writer only while a disk blocks that thread, and at the end.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import threading
import time
from collections.abc import Callable
from typing import Final

from trainwire.bus.logging_context import in_this_context
from trainwire.bus.writer import Writer
from trainwire_protocol.transport.server import Server

HEARTBEAT_SECONDS: Final = 1.0
"""Time between two heartbeats."""

POLL_SECONDS: Final = 0.005
"""Time between two checks of whether the bus can close."""

HUNG_SECONDS: Final = 0.5
"""Time without an answer from the disk after which `close` does not wait for it beyond its timeout."""

LINGER_SECONDS: Final = 0.2
"""Time for which messages to subscribers are still sent at the end."""

_log = logging.getLogger("trainwire")


class BusThread(threading.Thread):
    """Opens the server, starts the writer, and serves what is recorded until the bus is closed.

    The sockets belong to this thread's event loop. The server, and the writer that publishes through it, are therefore
    created here, by the functions passed.
    """

    writer: Writer
    """Available once `started` is set, unless there is a `failure`."""

    def __init__(self, open_server: Callable[[], Server], make_writer: Callable[[Server], Writer]) -> None:
        super().__init__(name="trainwire-bus", daemon=True)
        self.started = threading.Event()
        """Set once the sockets are bound, or cannot be bound."""
        self.failure: Exception | None = None
        """The reason why they cannot be bound, or why the thread has failed."""
        self._open_server, self._make_writer = open_server, make_writer
        self._deadline = math.inf
        self._last: tuple[str, str | None] = ("finished", None)

    def end(self, status: str, reason: str | None, timeout: float) -> None:
        """Publish what is queued, then the last event `run/<status>`, and end the thread within `timeout` seconds."""
        self._last = (status, reason)
        self._deadline = self.writer.deadline = time.monotonic() + timeout
        with contextlib.suppress(RuntimeError):  # the loop is closed, because the bus has failed
            self._loop.call_soon_threadsafe(self._ending.set)

    def wait(self, until: float) -> None:
        """After `end`, wait until nothing more is written, at most until a time of the monotonic clock."""
        self.join(max(until - time.monotonic(), 0))
        if self.writer.is_alive() and not self.writer.is_stalled(HUNG_SECONDS):
            self.writer.join(max(until - time.monotonic(), 0))

    def run(self) -> None:
        """Serve from bind to close."""
        try:
            asyncio.run(self._serve())
        except Exception as error:
            self.failure = error
            if self.started.is_set():
                _log.exception("the bus has failed; training continues, and nothing more is recorded")
        finally:
            self.started.set()

    async def _serve(self) -> None:
        self._loop, self._ending = asyncio.get_running_loop(), asyncio.Event()
        server = self._open_server()
        writer = self.writer = self._make_writer(server)
        in_this_context(writer).start()
        self.started.set()
        tasks = [asyncio.create_task(server.answer_requests()), asyncio.create_task(self._beat(server, writer))]
        try:
            await self._ending.wait()
            await self._finish(server, writer)
        finally:
            writer.stop()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            server.close(LINGER_SECONDS)

    async def _beat(self, server: Server, writer: Writer) -> None:
        """Send heartbeats, and between them do the writer's work while it needs help."""
        while True:
            until = time.monotonic() + HEARTBEAT_SECONDS
            try:
                server.beat()
                while writer.needs_help and time.monotonic() < until:
                    is_more = writer.relieve()
                    await asyncio.sleep(0 if is_more else min(writer.interval, HEARTBEAT_SECONDS))
            except Exception:
                _log.exception("a heartbeat could not be sent")
            await asyncio.sleep(max(until - time.monotonic(), 0))

    async def _finish(self, server: Server, writer: Writer) -> None:
        """Wait until the queue and the last event are written, and then for sinks that read live."""
        deadline = writer.deadline
        writer.wake()
        # What the disk does not accept is reported by an event, once it accepts data again.
        while writer.is_behind and self._may_wait():
            await asyncio.sleep(POLL_SECONDS)
            writer.wake()
            if writer.is_stalled(POLL_SECONDS):
                writer.relieve()
        last_seq = writer.finish(*self._last)
        while writer.written < last_seq and self._may_wait():
            await asyncio.sleep(POLL_SECONDS)
        writer.stop()  # not before: a stopped writer does not retry what the disk refuses
        server.beat()
        late = await server.wait_for_sinks(writer.written, deadline - time.monotonic())
        if writer.unwritten > 0:
            message = "the journal's disk did not accept the last %d events in time: they are lost unless it still does"
            _log.error(message, writer.unwritten)
        if late:
            _log.info(
                "sinks that have not read everything yet, and can read the rest from the journal: %s", ", ".join(late)
            )
        while self._may_wait():
            await asyncio.sleep(POLL_SECONDS)

    def _may_wait(self) -> bool:
        """Return whether there is time left for the journal; a disk that answers gets a little more of it."""
        writer = self.writer
        if not writer.is_alive() or writer.taken_over:
            return False
        return time.monotonic() < (self._deadline if writer.is_stalled(HUNG_SECONDS) else writer.deadline)
