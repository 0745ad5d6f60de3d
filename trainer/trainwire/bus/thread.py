"""The bus's own thread: an asyncio loop that answers requests, sends heartbeats, and ends the run.

What is recorded goes another way, by the journal's thread: a turn of this loop costs several times what it does there.
Only while a disk holds that thread up, and at the end, is it carried from here.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import threading
import time
from collections.abc import Callable, Sequence
from typing import Final

from trainwire.bus.batcher import Batcher
from trainwire.bus.drain import Drain
from trainwire.bus.publisher import UNJOURNALED_SECONDS, Publisher
from trainwire.bus.queue import Recorder
from trainwire.bus.watchers import Watchers
from trainwire.bus.writer import JournalThread
from trainwire_protocol.journal.run_folder import Attempt
from trainwire_protocol.transport.server import Server

HEARTBEAT_SECONDS: Final = 1.0
"""How often a heartbeat is sent."""

POLL_SECONDS: Final = 0.005
"""How often the end looks whether what it waits for has come."""

SLOW_SECONDS: Final = 0.05
"""How long one write of the journal may take before this thread takes part, while the queue fills up behind it."""

HOPELESS_SECONDS: Final = 0.5
"""How long the disk may not have taken anything for `close` to wait for it beyond its timeout."""

LINGER_SECONDS: Final = 0.2
"""How long messages that are on their way to subscribers may take to leave at the end."""

_log = logging.getLogger("trainwire")


class BusThread(threading.Thread):
    """Serves what is recorded, until told to end."""

    def __init__(
        self,
        attempt: Attempt,
        session: str,
        recorder: Recorder,
        batcher: Batcher,
        watchers: Watchers,
        open_server: Callable[[], Server],
        flush_interval: float,
    ) -> None:
        super().__init__(name="trainwire-bus", daemon=True)
        self.started = threading.Event()
        """Set once the sockets are bound, or could not be."""
        self.failure: Exception | None = None
        """Why they could not be."""
        self.publisher: Publisher | None = None
        self._recorder, self._batcher = recorder, batcher
        self._drain = Drain(recorder, batcher, watchers)
        self._journal = JournalThread(attempt, session, recorder.queue, flush_interval)
        self._open_server, self._flush_interval = open_server, flush_interval
        self._deadline = math.inf
        self._last: tuple[str, str | None] = ("finished", None)
        self._ending: asyncio.Event | None = None

    def end(self, status: str, reason: str | None, timeout: float) -> None:
        """Have the thread publish what is queued, then the last event `run/<status>`, and end within `timeout`."""
        self._last = (status, reason)
        self._deadline = self._drain.deadline = time.monotonic() + timeout
        if self._ending:
            with contextlib.suppress(RuntimeError):  # the loop is closed: the bus has failed
                self._loop.call_soon_threadsafe(self._ending.set)

    def wait(self, until: float) -> None:
        """Wait, once told to end, until nothing more is written, or for that time of the monotonic clock."""
        self.join(max(until - time.monotonic(), 0))
        if self._journal.is_alive() and not self._journal.is_held_up(HOPELESS_SECONDS):
            self._journal.join(max(until - time.monotonic(), 0))

    def run(self) -> None:
        """Live from bind to close."""
        try:
            asyncio.run(self._live())
        except Exception as error:
            self.failure = error
            if self.started.is_set():
                _log.exception("the bus has failed; training goes on, and nothing more is recorded")
        finally:
            self.started.set()

    async def _live(self) -> None:
        self._loop, self._ending = asyncio.get_running_loop(), asyncio.Event()
        server = self._open_server()
        publisher = self.publisher = Publisher(self._journal, server, self._record_missing)
        self._journal.start_with(lambda: self._drain.carry(publisher), publisher.confirm)
        self.started.set()
        tasks = [asyncio.create_task(server.answer_requests()), asyncio.create_task(self._beat(server, publisher))]
        try:
            await self._ending.wait()
            await self._finish(publisher, server)
        finally:
            self._journal.stop()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            server.close(LINGER_SECONDS)

    async def _beat(self, server: Server, publisher: Publisher) -> None:
        while True:
            until = time.monotonic() + HEARTBEAT_SECONDS
            try:
                server.beat()
                await self._relieve(publisher, until)
            except Exception:
                _log.exception("a heartbeat could not be sent")
            await asyncio.sleep(max(until - time.monotonic(), 0))

    async def _relieve(self, publisher: Publisher, until: float) -> None:
        """Do what the journal's thread cannot do while the disk holds it up."""
        while self._is_needed() and time.monotonic() < until:
            is_more = self._drain.carry(publisher)
            await asyncio.sleep(0 if is_more else min(self._flush_interval, HEARTBEAT_SECONDS))

    def _is_needed(self) -> bool:
        """Whether the disk hangs, or is so slow that the queue would overflow: much more may wait as batches."""
        return self._journal.is_held_up(SLOW_SECONDS if self._recorder.is_half_full else UNJOURNALED_SECONDS / 2)

    def _record_missing(self, first_seq: int, last_seq: int) -> None:
        value = {"first_seq": first_seq, "last_seq": last_seq}
        self._recorder.append("journal/missing", value, "lifecycle", None)

    async def _finish(self, publisher: Publisher, server: Server) -> None:
        deadline = self._drain.deadline
        self._journal.wake()
        # What the journal's disk does not take is told by an event of its own, once it takes something again.
        while (self._recorder.queue or publisher.is_behind) and self._may_wait():
            await asyncio.sleep(POLL_SECONDS)
            self._journal.wake()
            if self._journal.is_held_up(POLL_SECONDS):
                self._drain.carry(publisher)
        last_seq = self._drain.finish(publisher, *self._last)
        while publisher.written < last_seq and self._may_wait():
            await asyncio.sleep(POLL_SECONDS)
        self._journal.stop()  # not before: from then on it does not try again what the disk refuses
        server.beat()
        self._name_late(await server.wait_for_sinks(publisher.written, deadline - time.monotonic()), publisher)
        while self._may_wait():
            await asyncio.sleep(POLL_SECONDS)

    def _may_wait(self) -> bool:
        """Whether there is time to wait for the journal, and hope; a little more time at the very end."""
        journal = self._journal
        if not journal.is_alive() or journal.taken_over:
            return False
        deadline = self._deadline if journal.is_held_up(HOPELESS_SECONDS) else self._drain.deadline
        return time.monotonic() < deadline

    def _name_late(self, late: Sequence[str], publisher: Publisher) -> None:
        unwritten = self._batcher.seq - 1 - publisher.written
        if unwritten > 0:
            told = "the journal did not take the last %d events in time: unless it still does, they are lost"
            _log.error(told, unwritten)
        if late:
            _log.info("not read to the end yet by %s; the journal keeps it for them", ", ".join(late))
