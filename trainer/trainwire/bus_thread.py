"""The bus's own thread: an asyncio loop that empties the queue, publishes what was in it, and answers requests."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, Final

from trainwire.batcher import MAX_EVENTS, Batcher
from trainwire.journal_thread import SLICE_BYTES, JournalThread
from trainwire.lookout import Lookout
from trainwire.publisher import Publisher
from trainwire.recorder import FLOATS, Record, Recorder, names_of, values_of
from trainwire.watchers import Watchers
from trainwire.written import Written
from trainwire_protocol.run_folder import Attempt
from trainwire_protocol.server import Server
from trainwire_protocol.wire import Batch

HEARTBEAT_SECONDS: Final = 1.0
"""How often a heartbeat is sent."""

POLL_SECONDS: Final = 0.005
"""How often the end looks whether what it waits for has come."""

RESTING_POLLS: Final = 10
"""Times that the queue is found empty before the thread rests, and a lookout looks in its place."""

DROP_SECONDS: Final = 0.5
"""How much longer than its timeout closing may take, to tell what it has dropped."""

PORTION_SECONDS: Final = 0.1
"""How long is taken out at most before it is handed to the journal: what is refused fills nothing."""

LINGER_SECONDS: Final = 0.2
"""How long messages that are on their way to subscribers may take to leave at the end."""

_log = logging.getLogger("trainwire")


class BusThread(threading.Thread):
    """Carries records from the queue to the journal and the sockets, until told to end."""

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
        self._recorder, self._batcher, self._watchers = recorder, batcher, watchers
        self._journal = JournalThread(attempt, session, lambda batches: self._written.add(batches))
        self._lookout = Lookout(recorder.queue, flush_interval, self._wake_soon)
        self._open_server, self._flush_interval = open_server, flush_interval
        self._last: tuple[str, str | None] = ("finished", None)
        self._deadline = math.inf
        self._dropped = 0
        self._empty_polls = 0

    def end(self, status: str, reason: str | None, timeout: float) -> None:
        """Have the thread publish what is queued, then the last event `run/<status>`, and end within `timeout`."""
        self._last = (status, reason)
        self._deadline = time.monotonic() + timeout
        self._wake_soon()

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
        self._loop = asyncio.get_running_loop()
        self._waking: asyncio.Future[None] = self._loop.create_future()
        self._written = Written(self._loop, self._confirm)
        server = self._open_server()
        self.publisher = Publisher(self._journal, server)
        self._journal.start()
        self._lookout.start()
        self.started.set()
        tasks = [asyncio.create_task(server.answer_requests()), asyncio.create_task(_beat(server))]
        try:
            while self._deadline == math.inf:
                await self._wait()
                await self._drain(self.publisher)
            await self._finish(self.publisher, server, self._deadline)
        finally:
            self._lookout.stop()
            self._journal.stop()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            server.close(LINGER_SECONDS)

    async def _wait(self) -> None:
        """Wait for the flush interval, or until `end` is called; after some in vain, until something is recorded."""
        self._waking = self._loop.create_future()
        if self._empty_polls < RESTING_POLLS:
            timer = self._loop.call_later(self._flush_interval, self._wake)
            await self._waking
            timer.cancel()
        else:
            self._lookout.begin()
            await self._waking

    def _wake_soon(self) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: the bus has failed
            self._loop.call_soon_threadsafe(self._wake)

    def _wake(self) -> None:
        if not self._waking.done():
            self._waking.set_result(None)

    async def _drain(self, publisher: Publisher) -> None:
        """Publish what is queued, until there is no more that is ready or the deadline has passed."""
        self._empty_polls = 0 if self._recorder.queue or publisher.is_behind else self._empty_polls + 1
        while True:
            self._report_drops()
            publisher.show_unjournaled()
            # At once, as every thread that is woken takes the interpreter's lock from those that train.
            publisher.publish(await self._take_portion())
            if not self._is_ready() or time.monotonic() > self._deadline:
                break
            await self._give_way()
        if not self._recorder.queue:
            self._recorder.emptied()

    async def _take_portion(self) -> list[Batch]:
        """As much as is written at once, in slices between which other threads get the interpreter."""
        batches, size, until = list[Batch](), 0, time.monotonic() + PORTION_SECONDS
        while self._is_ready() and time.monotonic() <= self._deadline:
            taken = self._take()
            self._watchers.send(taken)  # by themselves, since they are decoded
            batches += taken
            size += sum(len(batch.body) for batch in taken)
            if not self._recorder.queue or size > SLICE_BYTES or time.monotonic() > until:
                break
            await self._give_way()
        return batches

    async def _give_way(self) -> None:
        """Let others have their turn, and publish what is written before more is taken out."""
        await asyncio.sleep(0)
        while self._written and time.monotonic() <= self._deadline:
            await asyncio.sleep(0)

    def _is_ready(self) -> bool:
        """Whether there is a record, and the oldest one's value is known."""
        queue = self._recorder.queue
        return bool(queue) and (queue[0][2] is FLOATS or self._batcher.is_ready(queue[0]))

    def _take(self) -> list[Batch]:
        """The batches of what is ready, of as much as may be packed at once; of what is refused there are none."""
        for _ in range(MAX_EVENTS):
            if self._batcher.is_full or not self._is_ready():
                break
            self._batcher.add(self._recorder.take())
        return self._batcher.take()

    def _report_drops(self) -> None:
        dropped = self._recorder.dropped
        if dropped > self._dropped:
            self._record("events/dropped", {"count": dropped - self._dropped, "total": dropped, "reason": "queue full"})
            self._dropped = dropped

    def _record(self, name: str, value: dict[str, Any]) -> None:
        self._recorder.append(name, value, "lifecycle", None)

    def _confirm(self, batches: Sequence[Batch]) -> None:
        assert self.publisher
        for first, last in self.publisher.confirm(batches):
            self._record("journal/missing", {"first_seq": first, "last_seq": last})

    async def _finish(self, publisher: Publisher, server: Server, deadline: float) -> None:
        await self._drain(publisher)
        # What the journal's disk does not take is told by an event of its own, once it takes something again.
        while (self._recorder.queue or publisher.is_behind) and time.monotonic() < deadline:
            await asyncio.sleep(POLL_SECONDS)
            await self._drain(publisher)
        self._deadline += DROP_SECONDS
        if not self._is_ready():  # to look at all of a long queue takes time, too
            self._drop("not computed in time", lambda record: not self._batcher.is_ready(record))
        await self._drain(publisher)
        self._drop("not written in time", lambda record: record[2] != "lifecycle")
        while self._is_ready():
            rest = self._take()
            publisher.publish(rest)
            self._watchers.send(rest)
        status, reason = self._last
        last_seq = self._batcher.seq
        value = {"last_seq": last_seq, "reason": reason}
        self._batcher.add((f"run/{status}", value, "lifecycle", time.time(), self._recorder.last_step, 0))
        last = self._batcher.take()
        publisher.publish(last)
        self._watchers.send(last)
        self._journal.stop()
        while publisher.written < last_seq and time.monotonic() < deadline:
            await asyncio.sleep(POLL_SECONDS)
        server.beat()
        self._name_late(await server.wait_for_sinks(publisher.written, deadline - time.monotonic()), publisher)
        while self._journal.is_alive() and time.monotonic() < deadline:
            await asyncio.sleep(POLL_SECONDS)

    def _drop(self, reason: str, is_dropped: Callable[[Record], bool]) -> None:
        dropped = self._recorder.remove(is_dropped)
        if dropped:
            names = sorted({name for record in dropped[:1000] for name in names_of(record)})
            count = sum(map(values_of, dropped))
            self._record("events/dropped", {"count": count, "names": names[:100], "reason": reason})

    def _name_late(self, late: Sequence[str], publisher: Publisher) -> None:
        unwritten = self._batcher.seq - 1 - publisher.written
        if unwritten > 0:
            _log.error("the journal's disk did not take the last %d events: they are lost", unwritten)
        if late:
            _log.info("not read to the end yet by %s; the journal keeps it for them", ", ".join(late))


async def _beat(server: Server) -> None:
    while True:
        try:
            server.beat()
        except Exception:
            _log.exception("a heartbeat could not be sent")
        await asyncio.sleep(HEARTBEAT_SECONDS)
