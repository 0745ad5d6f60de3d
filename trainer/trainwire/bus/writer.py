"""The thread that writes the journal, so that a disk that is full or does not answer stops nobody else.

At each flush interval it also has the queue emptied, and what it has written published: one thread that wakes for all
of this takes less from those that train than several that wake each other. It renews the attempt's lease, and notices
when another trainer has taken the run over.
"""

from __future__ import annotations

import contextlib
import logging
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence, Sized
from queue import Empty, SimpleQueue
from typing import Final

from trainwire_protocol.journal.run_folder import RENEWAL_SECONDS, Attempt, Lease
from trainwire_protocol.journal.segments import JournalWriter
from trainwire_protocol.process import ProcessIdentity
from trainwire_protocol.wire import Batch

SLICE_BYTES: Final = 1 << 20
"""About how much is written at once."""

MAX_SLEEP_SECONDS: Final = 0.05
"""Longest flush interval that the thread sleeps through, lest who closes the bus waits for it: a plain sleep costs a
third less than a wait that is woken."""

BUSY_LOOKS: Final = 10
"""Times that nothing is found before it rests."""

RESTING_LOOKS: Final = 50
"""Times that it sleeps then before it looks at its lease."""

RESTING_FACTOR: Final = 1.5
"""How much longer than the flush interval it sleeps then: what comes first waits a little longer."""

RETRY_SECONDS: Final = 0.25
"""How long after a failed write the next one is tried."""

_log = logging.getLogger("trainwire")


class JournalThread(threading.Thread):
    """Writes batches in their order, and tells which have been written."""

    def __init__(self, attempt: Attempt, session: str, queue: Sized, interval: float) -> None:
        """Prepare the thread, which looks every `interval` seconds whether there is something in the queue."""
        super().__init__(name="trainwire-journal", daemon=True)
        self.failing_since: float | None = None
        """When, on the monotonic clock, what the disk has not done yet was begun; None if there is nothing."""
        self.taken_over = False
        """Whether another trainer has taken the run over; nothing is written from then on."""
        self._attempt, self._session, self._queue, self._interval = attempt, session, queue, interval
        self._fill: Callable[[], bool] = bool
        self._on_written: Callable[[Sequence[Batch]], object] = len
        self._writer = JournalWriter(attempt.folder)
        self._arrivals: SimpleQueue[Sequence[Batch] | None] = SimpleQueue()
        self._pending: deque[Batch] = deque()
        self._renewed = time.monotonic()
        self._retry_at = -math.inf
        self._is_awake = interval > MAX_SLEEP_SECONDS
        self._closing = False

    def start_with(self, fill: Callable[[], bool], on_written: Callable[[Sequence[Batch]], object]) -> None:
        """Start the thread.

        Args:
            fill: called on it at each interval, to `submit` what there is; True if there is more.
            on_written: called on it with batches once they are in the journal.
        """
        self._fill, self._on_written = fill, on_written
        self.start()

    def submit(self, batches: Sequence[Batch]) -> None:
        """Have batches written behind all others; returns at once."""
        self._arrivals.put(batches)

    def wake(self) -> None:
        """Have it ask for batches now; from then on it sleeps no more, but waits for what is submitted."""
        self._is_awake = True
        self._arrivals.put(())

    def stop(self) -> None:
        """Have the thread end once all is written; what a disk that fails does not take then is given up."""
        self._arrivals.put(None)

    def is_held_up(self, seconds: float) -> bool:
        """Whether the disk has not taken anything for so long, though there is something to write."""
        failing_since = self.failing_since
        return failing_since is not None and time.monotonic() - failing_since >= seconds

    def run(self) -> None:
        """Write until stopped."""
        try:
            while not self._closing:
                self._wait()
                while self._work():
                    pass
        except Exception:
            _log.exception("the bus has failed; training goes on, and nothing more is recorded")
        finally:
            self._release_lease()

    def _work(self) -> bool:
        """Have it filled, and write; whether there is more to be had at once."""
        is_more = self._fill()
        self._take()
        self._write_pending()
        self._renew_lease()
        return is_more and not self._closing

    def _wait(self) -> None:
        """Wait for the flush interval, and on while there is nothing to do, or until woken."""
        looks, seconds = BUSY_LOOKS, self._interval
        while not self._is_awake:
            if self._sleep(looks, seconds):
                return
            self._renew_lease()
            looks, seconds = RESTING_LOOKS, RESTING_FACTOR * self._interval
        self._wait_awake()

    def _sleep(self, looks: int, seconds: float) -> bool:
        """Sleep until there is something to do, or that has been looked for so many times; whether there is."""
        # Nothing but this, as on an idle processor the simplest line takes microseconds.
        queue, pending, arrivals = self._queue, self._pending, self._arrivals
        for _ in range(looks):
            time.sleep(seconds)
            if queue or pending or not arrivals.empty():
                return True
        return False

    def _wait_awake(self) -> None:
        until = time.monotonic() + self._interval
        while True:
            longest = RETRY_SECONDS if self._pending else RENEWAL_SECONDS
            left = until - time.monotonic()
            try:
                self._accept(self._arrivals.get(timeout=min(left if left > 0 else self._interval, longest)))
                return
            except Empty:
                self._renew_lease()
            if self._pending or (self._queue and time.monotonic() >= until):
                return

    def _take(self) -> None:
        """Take what was submitted."""
        while not self._arrivals.empty():
            self._accept(self._arrivals.get_nowait())

    def _accept(self, arrival: Sequence[Batch] | None) -> None:
        if arrival is None:
            self._closing = True
        else:
            self._pending.extend(arrival)

    def _write_pending(self) -> None:
        if self._closing or time.monotonic() >= self._retry_at:
            while self._pending and not self.taken_over and self._write():
                self._renew_lease()  # also while a slow disk takes much

    def _write(self) -> bool:
        """Write what has waited longest; False if that failed."""
        first_try = self.failing_since is None
        # A disk that fails is tried with little: to encode all that waits for it, again and again, would cost a core.
        batches = self._slice(SLICE_BYTES if first_try else 0)
        if first_try:
            self.failing_since = time.monotonic()
        try:
            self._writer.append(batches)
        except OSError as error:
            if first_try:
                _log.warning("the journal %s cannot be written: %s; trying again", self._attempt.folder, error.strerror)
            self._retry_at = time.monotonic() + RETRY_SECONDS
            return False
        self.failing_since = None
        for _ in batches:
            self._pending.popleft()
        self._on_written(batches)
        return True

    def _slice(self, size: int) -> list[Batch]:
        """The first batches, at least one, and no more than `size` bytes before the last."""
        batches = []
        for batch in self._pending:
            batches.append(batch)
            size -= len(batch.body)
            if size < 0:
                break
        return batches

    def _renew_lease(self) -> None:
        if self.taken_over or time.monotonic() - self._renewed < RENEWAL_SECONDS:
            return
        self._renewed = time.monotonic()
        with contextlib.suppress(OSError), self._telling_of_delay():
            if self._attempt.is_superseded():
                self.taken_over = True
                _log.error("another trainer has taken over %s: nothing more is journaled here", self._attempt.folder)
            else:
                self._attempt.write_lease(self._lease())

    @contextlib.contextmanager
    def _telling_of_delay(self) -> Iterator[None]:
        """Let it be seen meanwhile: a disk that hangs in this holds up what waits to be written."""
        is_first = self.failing_since is None
        if is_first:
            self.failing_since = time.monotonic()
        try:
            yield
        finally:
            if is_first:
                self.failing_since = None

    def _release_lease(self) -> None:
        with contextlib.suppress(OSError):
            self._writer.close()
        self._attempt.release(self._session)

    def _lease(self) -> Lease:
        return Lease(ProcessIdentity.of_this_process(), self._session, time.time())
