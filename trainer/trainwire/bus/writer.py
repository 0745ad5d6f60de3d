"""The writer: takes what was recorded, packs it, writes it to the journal, and then publishes it.

One thread does all of this, because each thread that wakes takes the GIL from the training thread. It
also renews the attempt's lease. While a disk blocks it, the bus thread calls `relieve` in its place: records are then
still taken from the queue, and published as unjournaled after two seconds.

Two locks allow this, and neither is held during a disk operation: one for taking and packing, and one for the batches
that are pending.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import islice
from typing import Any, Final

from trainwire.bus.attempt_folder import AttemptFolder, Change
from trainwire.bus.batcher import SLICE_EVENTS, Batcher
from trainwire.bus.queue import FLOATS, Record, RecordQueue, names_of, values_of
from trainwire.bus.values.rejections import Rejections
from trainwire.bus.watchers import Watchers
from trainwire_protocol.journal.attempts import MARK
from trainwire_protocol.journal.run_folder import RENEWAL_SECONDS, Attempt
from trainwire_protocol.journal.segments import JournalWriter
from trainwire_protocol.transport.connection import connection_path, write_connection
from trainwire_protocol.transport.server import Server
from trainwire_protocol.wire import Batch, encode_header

SLICE_BYTES: Final = 1 << 20
"""Approximate size of one write."""

TAKE_SECONDS: Final = 0.1
"""Maximum time for which records are taken before they are written, as rejected records fill no batch."""

PAUSE_SECONDS: Final = 1e-4
"""Pause between two slices. A thread that waits for the GIL takes that long to wake, and does not get it if this thread
requests it sooner."""

LONG_QUEUE: Final = 2000
"""Number of queued records from which there is no such pause, so that the queue does not overflow."""

MAX_PENDING_BYTES: Final = 256 << 20
"""Bytes of batches that wait for a failing disk. Further batches are given up, and named once it accepts data again."""

UNJOURNALED_SECONDS: Final = 2.0
"""Time after which batches are published without the journal if its disk does not answer."""

SLOW_SECONDS: Final = 0.05
"""Duration of a disk operation after which the writer needs help if the queue is half full."""

RETRY_SECONDS: Final = 0.25
"""Time between a failed write and the next attempt."""

DROP_SECONDS: Final = 0.5
"""Time beyond its deadline that `finish` may take to record what was dropped, and the disk to accept it."""

MAX_SLEEP_SECONDS: Final = 0.05
"""Longest flush interval for which the thread sleeps: a sleep takes a third less processor time than a wait that can
be interrupted, but closing the bus must wait for it."""

BUSY_LOOKS: Final = 10
"""Number of times that the queue is found empty before the thread sleeps longer."""

IDLE_LOOKS: Final = 50
"""Number of such longer sleeps between two checks of the lease."""

IDLE_FACTOR: Final = 1.5
"""Length of the longer sleeps, in flush intervals."""

CLOSING_POLL_SECONDS: Final = 0.005
"""Time between two checks of what is pending, once the bus is closing."""

FLUSH_POLL_SECONDS: Final = 0.002
"""Time between two checks of what is written, in a thread that waits for it."""

_DROP_REASONS: Final = {
    "queue full": "more were recorded than can be written, so record fewer at a time, or less often",
    "not computed in time": "their GPU had not computed them when the bus was closed",
    "not written in time": "they were still queued when the bus was closed, so give close a longer timeout",
}
"""What is logged for each reason in `events/dropped`."""

_NEEDED: Final = (MARK.encode(), b"journal/missing")
"""Names of events whose batches are never given up."""

_log = logging.getLogger("trainwire")


class Writer(threading.Thread):
    """Writes and publishes one attempt's records."""

    def __init__(
        self,
        attempt: Attempt,
        session: str,
        queue: RecordQueue,
        batcher: Batcher,
        watchers: Watchers,
        rejections: Rejections,
        interval: float,
        server: Server,
    ) -> None:
        """Prepare the thread.

        Args:
            attempt: the attempt whose journal is written.
            session: identifies the owner of the attempt's lease.
            queue: the queue of records.
            batcher: packs the records.
            watchers: receive all events.
            rejections: counts and logs values that were dropped.
            interval: seconds between two checks of the queue.
            server: publishes the batches.
        """
        super().__init__(name="trainwire-writer", daemon=True)
        self.interval = interval
        self.server = server
        self.deadline = math.inf
        """Time of the monotonic clock from which no more records are taken."""
        self.written = -1
        """Seq of the last event in the journal."""
        self.stalled_since: float | None = None
        """Start of the disk operation that has not succeeded yet, on the monotonic clock; None without one."""
        self.taken_over = False
        """Whether another trainer has taken over the run; nothing is written from then on."""
        self.is_finished = False
        """Whether the last event was added; nothing is taken after it."""
        self._session = session
        self._queue, self._batcher, self._watchers, self._rejections = queue, batcher, watchers, rejections
        self._folder = AttemptFolder(attempt, session)
        self._journal = JournalWriter(attempt.folder)
        self._take_lock = threading.Lock()
        self._reported_drops = 0
        self._pending_lock = threading.Lock()
        self._pending: deque[Batch] = deque()
        self._pending_bytes = 0
        self._unshown = 0
        """Number of the last pending batches that have not been published as unjournaled."""
        self._given_up: list[tuple[int, int]] = []
        """First and last seqs of what the journal will lack, until `journal/missing` reports it."""
        self._mark_written = threading.Condition()
        self._last_mark = 0
        self._renewed = time.monotonic()
        self._retry_at = -math.inf
        self._wake = threading.Event()
        self._is_awake = interval > MAX_SLEEP_SECONDS
        self._is_stopping = False

    # Called from other threads.

    def wake(self) -> None:
        """Take what is queued now; from then on the thread no longer sleeps, but waits until it is woken."""
        self._is_awake = True
        self._wake.set()

    def stop(self) -> None:
        """End the thread once all that is pending is written; what the disk then refuses is given up."""
        self._is_stopping = True
        self.wake()

    def is_stalled(self, seconds: float) -> bool:
        """Return whether the disk has accepted nothing for `seconds`, although there is something to write."""
        since = self.stalled_since
        return since is not None and time.monotonic() - since >= seconds

    @property
    def needs_help(self) -> bool:
        """Whether the disk hangs, or is so slow that the queue would overflow."""
        return self.is_stalled(SLOW_SECONDS if self._queue.is_half_full else UNJOURNALED_SECONDS / 2)

    @property
    def is_behind(self) -> bool:
        """Whether the journal lacks something that was recorded, or the report of what was given up."""
        return bool(self._queue.records or self._pending or self._given_up)

    @property
    def unwritten(self) -> int:
        """Number of events that are not in the journal."""
        return self._batcher.seq - 1 - self.written

    def relieve(self) -> bool:
        """Take records in place of this thread, which the disk blocks; return whether there are more."""
        is_more = self.take()
        self._wake.set()
        return is_more

    def wait_for_mark(self, mark: int, timeout: float) -> bool:
        """Wait until a mark is in the journal; return False if it is not in `timeout` seconds."""
        with self._mark_written:
            return self._mark_written.wait_for(lambda: self._last_mark >= mark, timeout)

    def wait_until_written(self, timeout: float) -> bool:
        """Wait until the journal has what was recorded so far; return False if it does not in `timeout` seconds."""
        deadline = time.monotonic() + timeout
        last_seq: int | None = None
        with self._take_lock:
            last_record = self._queue.taken + len(self._queue.records)
        while True:
            with self._take_lock:  # otherwise the batcher may hold records that were taken and are not pending yet
                if last_seq is None and (self._queue.taken >= last_record or self.is_finished):
                    last_seq = self._batcher.seq - 1
            if last_seq is not None and self.written >= last_seq:
                return True
            if time.monotonic() >= deadline or self.taken_over or not self.is_alive():
                return False
            time.sleep(FLUSH_POLL_SECONDS)

    def finish(self, status: str, reason: str | None) -> int:
        """Take what is ready, record the rest as dropped, and add the last event, `run/<status>`; return its seq."""
        with self._take_lock:
            self.deadline += DROP_SECONDS
            if not self._is_ready():  # otherwise the records behind it would not be taken either
                self._drop("not computed in time", lambda record: not self._batcher.is_ready(record))
            while self._take():
                pass
            self._drop("not written in time", lambda record: record[2] != "lifecycle")
            self._drop("not computed in time", lambda record: not self._batcher.is_ready(record))
            while self._is_ready():
                self._pack_slice()
                self._add_pending(self._packed())
            last_seq = self._batcher.seq
            value = {"last_seq": last_seq, "reason": reason}
            self._batcher.add((f"run/{status}", value, "lifecycle", time.time(), self._queue.last_step, 0))
            self._add_pending(self._packed())
            self.is_finished = True
            return last_seq

    # The thread.

    def run(self) -> None:
        """Take, write and publish until stopped."""
        try:
            while not self._is_stopping:
                self._wait()
                while self._work():
                    pass
            self._retry_at = -math.inf
            self._work()
        except Exception:
            _log.exception("the bus has failed; training continues, and nothing more is recorded")
        finally:
            with contextlib.suppress(OSError):
                self._journal.close()
            if not self.taken_over:
                self._attempt.release(self._session)
            self._folder.close()

    def _work(self) -> bool:
        """Take and write once; return whether there is more to take at once."""
        is_more = self.take()
        self._write_pending()
        self._renew_lease()
        return is_more and not self._is_stopping

    def _wait(self) -> None:
        """Wait for the flush interval, and further until there is something to do."""
        looks, seconds = BUSY_LOOKS, self.interval
        while not self._is_awake:
            if self._sleep(looks, seconds):
                return
            self._renew_lease()
            looks, seconds = IDLE_LOOKS, IDLE_FACTOR * self.interval
        self._wait_awake()

    def _sleep(self, looks: int, seconds: float) -> bool:
        """Sleep up to `looks` times; return True as soon as there is something to do."""
        # On an idle processor each line takes microseconds, so there are few.
        records, pending = self._queue.records, self._pending
        for _ in range(looks):
            time.sleep(seconds)
            if records or pending or self._is_awake:
                return True
        return False

    def _wait_awake(self) -> None:
        """Wait until woken, or the flush interval is over and there is something to do."""
        until = time.monotonic() + self.interval
        while True:
            left = until - time.monotonic()
            longest = RETRY_SECONDS if self._pending else RENEWAL_SECONDS
            if self.deadline < math.inf:
                longest = CLOSING_POLL_SECONDS
            if self._wake.wait(min(left if left > 0 else self.interval, longest)):
                self._wake.clear()
                return
            self._renew_lease()
            if self._pending or (self._queue.records and time.monotonic() >= until):
                return

    # Take and pack.

    def take(self) -> bool:
        """Make about as many records pending as are written at once; return whether there are more."""
        with self._take_lock:
            return not self.is_finished and self._take()

    def _take(self) -> bool:
        queue = self._queue
        if queue.dropped > self._reported_drops:
            count, self._reported_drops = queue.dropped - self._reported_drops, queue.dropped
            self._record_drops({"count": count, "total": queue.dropped, "reason": "queue full"})
        if self.is_stalled(UNJOURNALED_SECONDS):
            self._show_pending()
        self._add_pending(self._pack())
        if not queue.records:
            queue.reset_limits()
        return self._is_ready() and time.monotonic() <= self.deadline

    def _pack(self) -> list[Batch]:
        """Pack as much as is written at once, in slices between which other threads get the GIL."""
        queue, batches, until = self._queue, list[Batch](), time.monotonic() + TAKE_SECONDS
        while self._is_ready() and time.monotonic() <= self.deadline:
            self._pack_slice()
            if not queue.records or self._batcher.size > SLICE_BYTES or time.monotonic() > until:
                break
            if self._watchers:  # which decode each slice
                batches += self._packed()
            is_urgent = len(queue.records) >= LONG_QUEUE or queue.is_half_full or self.deadline < math.inf
            time.sleep(0 if is_urgent else PAUSE_SECONDS)
        return batches + self._packed()

    def _pack_slice(self) -> None:
        """Pack the records that are ready, as many as may be packed without a pause."""
        queue, records, batcher = self._queue, self._queue.records, self._batcher
        batcher.begin_slice()
        for _ in range(SLICE_EVENTS):
            if batcher.left <= 0 or not records or not (records[0][2] is FLOATS or batcher.is_ready(records[0])):
                break
            batcher.add(queue.take())

    def _packed(self) -> list[Batch]:
        """Return the batches of what was packed, and pass them to the watchers."""
        batches = self._batcher.take()
        self._watchers.send(batches)
        return batches

    def _is_ready(self) -> bool:
        """Return whether there is a record, and the value of the oldest one is available."""
        records = self._queue.records
        return bool(records) and self._batcher.is_ready(records[0])

    def _drop(self, reason: str, is_dropped: Callable[[Record], bool]) -> None:
        dropped = self._queue.remove(is_dropped)
        if dropped:
            names = sorted({name for record in dropped[:1000] for name in names_of(record)})
            self._record_drops({"count": sum(map(values_of, dropped)), "names": names[:100], "reason": reason})

    def _record_drops(self, value: dict[str, Any]) -> None:
        self._queue.append("events/dropped", value, "lifecycle", None)
        reason, count = value["reason"], value["count"]
        message = f"values were dropped: {_DROP_REASONS[reason]}; %d so far, and `trainwire verify` counts them all"
        self._rejections.add(reason, message, count, count=count)

    def _add_pending(self, batches: Sequence[Batch]) -> None:
        """Queue batches for the journal; give up those that exceed the limit, unless others depend on them."""
        with self._pending_lock:
            for batch in batches:
                # The first is kept whatever its size: what was given up is reported after the next write.
                is_full = bool(self._pending) and self._pending_bytes + len(batch.body) > MAX_PENDING_BYTES
                if is_full and not (batch.header.last or any(name in batch.body for name in _NEEDED)):
                    self._give_up(batch)
                else:
                    self._pending.append(batch)
                    self._pending_bytes += len(batch.body)
                    self._unshown += 1

    def _give_up(self, batch: Batch) -> None:
        first, last = batch.header.seq, batch.cursor.seq
        if self._given_up and self._given_up[-1][1] == first - 1:
            first = self._given_up.pop()[0]
        self._given_up.append((first, last))
        self._publish_unjournaled(batch)

    def _show_pending(self) -> None:
        """Publish pending batches that have not been published yet, marked as unjournaled."""
        with self._pending_lock:
            for batch in [*islice(reversed(self._pending), self._unshown)][::-1]:
                self._publish_unjournaled(batch)
            self._unshown = 0

    def _publish_unjournaled(self, batch: Batch) -> None:
        header = replace(batch.header, unjournaled=True)
        self.server.publish(Batch(header, encode_header(header), batch.body))

    # Write and publish.

    def _write_pending(self) -> None:
        if time.monotonic() >= self._retry_at:
            while self._pending and not self.taken_over and self._write():
                self._renew_lease()  # a slow disk may take long for all of them

    def _write(self) -> bool:
        """Write the oldest pending batches and publish them; return False if the disk refuses them."""
        # The last events must not go to a folder that has just been deleted.
        if self.deadline < math.inf and not self._check_folder():
            return False
        is_first_try = self.stalled_since is None
        # A failing disk is tried with one batch: encoding all of them for each try would take a core.
        batches = self._oldest_pending(SLICE_BYTES if is_first_try else 0)
        if is_first_try:
            self.stalled_since = time.monotonic()
        try:
            self._journal.append(batches)
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ESTALE):
                self._check_folder()  # which reports what has happened
            elif is_first_try:
                _log.warning("the journal %s cannot be written: %s; trying again", self._attempt.folder, error.strerror)
            self._retry_at = time.monotonic() + RETRY_SECONDS
            return False
        self.stalled_since = None
        self._publish_written(batches)
        return True

    def _oldest_pending(self, size: int) -> list[Batch]:
        """Return the oldest pending batches: at least one, and no more after `size` bytes."""
        batches = list[Batch]()
        with self._pending_lock:
            for batch in self._pending:
                batches.append(batch)
                size -= len(batch.body)
                if size < 0:
                    break
        return batches

    def _publish_written(self, batches: Sequence[Batch]) -> None:
        """Publish batches that are now in the journal, and report what was given up in the meantime."""
        with self._pending_lock:
            for batch in batches:
                self._pending.popleft()
                self._pending_bytes -= len(batch.body)
                self.server.publish(batch)
                self.written = batch.cursor.seq
                if MARK.encode() in batch.body:
                    self._confirm_mark(batch)
            self._unshown = min(self._unshown, len(self._pending))
            for first, last in self._given_up:
                value = {"first_seq": first, "last_seq": last}
                self._queue.append("journal/missing", value, "lifecycle", None)
                _log.warning("the journal lacks the events %d to %d, which its disk did not accept", first, last)
            self._given_up.clear()

    def _confirm_mark(self, batch: Batch) -> None:
        """Notify the threads that wait for the mark at the end of a batch, if it has one."""
        event = batch.events[-1]
        if event.name == MARK and event.type == "lifecycle":
            with self._mark_written:
                self._last_mark = event.value["mark"]
                self._mark_written.notify_all()

    # Renew the lease.

    def _renew_lease(self) -> None:
        if self.taken_over or time.monotonic() - self._renewed < RENEWAL_SECONDS:
            return
        self._renewed = time.monotonic()
        if not self._check_folder():
            return
        with contextlib.suppress(OSError), self._noting_stall():
            if self._attempt.is_superseded():
                self.taken_over = True
                _log.error("another trainer has taken over %s: nothing more is journaled here", self._attempt.folder)
            else:
                self._attempt.renew_lease(self._session)

    @property
    def _attempt(self) -> Attempt:
        return self._folder.attempt

    def _check_folder(self) -> bool:
        """Follow the attempt's folder if it was moved, and make it again if it was deleted.

        Return whether the run is still recorded there.
        """
        before = self._attempt
        try:
            with self._noting_stall():
                deleted_from = self._journal.deleted_from
                if deleted_from is not None:
                    # Should the folder not be made again, writing to it fails from now on, as on a disk that fails.
                    self._journal.close()
                change = self._folder.check()
        except OSError as error:
            message = "the folder %s is gone, or cannot be read: %s; trying again"
            self._rejections.add("folder", message, before.run_folder, error.strerror, count=0)
            return True
        if change is Change.REPLACED:
            self.taken_over = True
            message = "%s was deleted, and another run is recorded there: nothing more of this one is journaled"
            _log.error(message, before.run_folder)
        elif change is Change.MOVED:
            self._journal.folder, self.server.responder.attempt = self._attempt.folder, self._attempt
            self._write_own_files()
            message = "the folder %s was moved to %s: the run is recorded there"
            _log.warning(message, before.run_folder, self._attempt.run_folder)
        elif change is Change.MADE_AGAIN or deleted_from is not None:
            self._journal.close()
            self._write_own_files()
            self._report_deleted(0 if change is Change.MADE_AGAIN else deleted_from or 0)
        return not self.taken_over

    def _write_own_files(self) -> None:
        """Write the lease and the connection file, which tell readers where the run is recorded."""
        attempt = self._attempt
        with contextlib.suppress(OSError), self._noting_stall():
            attempt.renew_lease(self._session)
            if self.server.connection:
                write_connection(connection_path(attempt.run_folder, attempt.rank), self.server.connection)

    def _report_deleted(self, first: int) -> None:
        """Report that the events from `first` on were deleted."""
        message = "the journal in %s was deleted: it lacks the events %d to %d, and is continued there"
        _log.error(message, self._attempt.run_folder, first, self.written)
        if self.written >= first:
            value = {"first_seq": first, "last_seq": self.written}
            self._queue.append("journal/missing", value, "lifecycle", None)

    @contextlib.contextmanager
    def _noting_stall(self) -> Iterator[None]:
        """Set `stalled_since` during a disk operation other than a write, which may hang too."""
        is_first = self.stalled_since is None
        if is_first:
            self.stalled_since = time.monotonic()
        try:
            yield
        finally:
            if is_first:
                self.stalled_since = None
