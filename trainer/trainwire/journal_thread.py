"""The thread that writes the journal, so that a disk that is full or does not answer stops nobody else.

It also renews the attempt's lease, and notices when another trainer has taken the run over.
"""

from __future__ import annotations

import contextlib
import logging
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final

from trainwire_protocol.journal import JournalWriter
from trainwire_protocol.process import ProcessIdentity
from trainwire_protocol.run_folder import RENEWAL_SECONDS, Attempt, Lease
from trainwire_protocol.wire import Batch

SLICE_BYTES: Final = 1 << 20
"""About how much is written at once."""

RETRY_SECONDS: Final = 0.25
"""How long after a failed write the next one is tried."""

_log = logging.getLogger("trainwire")


class JournalThread(threading.Thread):
    """Writes batches in their order, and tells which have been written."""

    def __init__(self, attempt: Attempt, session: str, on_written: Callable[[Sequence[Batch]], None]) -> None:
        """Prepare the thread; `on_written` is called on it with batches once they are in the journal."""
        super().__init__(name="trainwire-journal", daemon=True)
        self.failing_since: float | None = None
        """When, on the monotonic clock, the write was begun that has not succeeded yet; None if there is none."""
        self.taken_over = False
        """Whether another trainer has taken the run over; nothing is written from then on."""
        self._attempt, self._session, self._on_written = attempt, session, on_written
        self._writer = JournalWriter(attempt.folder)
        self._arrivals: queue.SimpleQueue[Sequence[Batch] | None] = queue.SimpleQueue()
        self._pending: deque[Batch] = deque()
        self._renewed = time.monotonic()
        self._closing = False
        self._stopping = threading.Event()

    def submit(self, batches: Sequence[Batch]) -> None:
        """Have batches written behind all others; returns at once."""
        self._arrivals.put(batches)

    def stop(self) -> None:
        """Have the thread end once all is written; what a disk that fails does not take then is given up."""
        self._stopping.set()
        self._arrivals.put(None)

    def run(self) -> None:
        """Write until stopped."""
        while not self._closing:
            self._take()
            while self._pending and not self.taken_over and self._write():
                self._renew_lease()  # also while a slow disk takes much
            if self.failing_since is not None:
                self._stopping.wait(RETRY_SECONDS)
            self._renew_lease()
        self._release_lease()

    def _take(self) -> None:
        """Wait for batches, as long as the lease allows, then take all there are."""
        try:
            arrival = self._arrivals.get(timeout=RENEWAL_SECONDS if self.failing_since is None else 0.001)
            while arrival is not None:
                self._pending.extend(arrival)
                arrival = self._arrivals.get_nowait()
            self._closing = True
        except queue.Empty:
            return

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
        try:
            if self._attempt.is_superseded():
                self.taken_over = True
                _log.error("another trainer has taken over %s: nothing more is journaled here", self._attempt.folder)
            else:
                self._attempt.write_lease(self._lease())
        except OSError:
            return

    def _release_lease(self) -> None:
        with contextlib.suppress(OSError):
            self._writer.close()
        self._attempt.release(self._session)

    def _lease(self) -> Lease:
        return Lease(ProcessIdentity.of_this_process(), self._session, time.time())
