"""The thread that writes the journal, so that a disk that is full or does not answer stops nobody else.

It also renews the attempt's lease, and notices when another trainer has taken the run over.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Final

from trainwire_protocol.journal import JournalWriter
from trainwire_protocol.process import ProcessIdentity
from trainwire_protocol.run_folder import RENEWAL_SECONDS, Attempt, Lease
from trainwire_protocol.wire import Batch

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
        self._pending: list[Batch] = []
        self._renewed = time.monotonic()
        self._closing = False

    def submit(self, batches: Sequence[Batch]) -> None:
        """Have batches written behind all others; returns at once."""
        self._arrivals.put(batches)

    def stop(self) -> None:
        """Have the thread end once all is written; what a disk that fails does not take then is given up."""
        self._arrivals.put(None)

    def run(self) -> None:
        """Write until stopped."""
        while not self._closing:
            self._take()
            if self._pending and not self.taken_over:
                self._write()
            self._renew_lease()
        self._release_lease()

    def _take(self) -> None:
        """Wait for batches, as long as the lease or a failed write allows, then take all there are."""
        wait = RENEWAL_SECONDS if self.failing_since is None else RETRY_SECONDS
        try:
            arrival = self._arrivals.get(timeout=wait)
            while arrival is not None:
                self._pending += arrival
                arrival = self._arrivals.get_nowait()
            self._closing = True
        except queue.Empty:
            return

    def _write(self) -> None:
        batches, first_try = self._pending, self.failing_since is None
        if first_try:
            self.failing_since = time.monotonic()
        try:
            self._writer.append(batches)
        except OSError as error:
            if first_try:
                _log.warning("the journal %s cannot be written: %s; trying again", self._attempt.folder, error.strerror)
            return
        self._pending, self.failing_since = [], None
        self._on_written(batches)

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
        try:
            self._writer.close()
            self._attempt.write_lease(replace(self._lease(), released=True))
        except OSError:
            return

    def _lease(self) -> Lease:
        return Lease(ProcessIdentity.of_this_process(), self._session, time.time())
