"""From events to the wire: batches go to the journal first, and to the PUB socket once they are written."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Final

from trainwire.bus.writer import JournalThread
from trainwire_protocol.journal.attempts import MARK
from trainwire_protocol.transport.server import Server
from trainwire_protocol.wire import Batch, encode_header

UNJOURNALED_SECONDS: Final = 2.0
"""How long the journal's disk may not answer before batches are published without it."""

MAX_UNWRITTEN_BYTES: Final = 256 << 20
"""Bytes of batches that wait for a disk that fails; further ones are given up, and named when it is back."""


_NEEDED: Final = (MARK.encode(), b"journal/missing")
"""Names of events whose batches are never given up."""


class Publisher:
    """Publishes one attempt's batches, each once it is journaled; from any thread."""

    def __init__(self, journal: JournalThread, server: Server, on_missing: Callable[[int, int], object]) -> None:
        """Prepare; `on_missing` is called with the first and last seq of what the journal will never have."""
        self.written = -1
        """Seq of the last event that is in the journal."""
        self._journal, self._server, self._on_missing = journal, server, on_missing
        self._lock = threading.Lock()
        self._unwritten: deque[Batch] = deque()
        self._unwritten_bytes = 0
        self._given_up: list[tuple[int, int]] = []
        self._unshown: deque[Batch] = deque()
        self._marks: deque[tuple[int, int]] = deque()
        self._mark_written = threading.Condition()
        self._last_mark = 0

    @property
    def is_behind(self) -> bool:
        """Whether the journal lacks something that was published, or word of what it will never have."""
        return bool(self._unwritten or self._given_up)

    def publish(self, batches: Sequence[Batch]) -> None:
        """Take batches on: they are published when they are journaled."""
        with self._lock:
            kept = [batch for batch in batches if self._keep(batch)]
            self._note_marks(kept)
        if kept:
            self._journal.submit(kept)

    def _keep(self, batch: Batch) -> bool:
        # What nothing waits before is kept whatever its size: what is given up is told once something was written.
        is_full = bool(self._unwritten) and self._unwritten_bytes + len(batch.body) > MAX_UNWRITTEN_BYTES
        if is_full and not self._is_needed(batch):
            self._give_up(batch)
            return False
        self._unwritten.append(batch)
        self._unshown.append(batch)
        self._unwritten_bytes += len(batch.body)
        return True

    def _is_needed(self, batch: Batch) -> bool:
        """Whether others rely on it: the end, a checkpoint's mark, and what names those that were given up."""
        return batch.header.last or any(name in batch.body for name in _NEEDED)

    def _give_up(self, batch: Batch) -> None:
        first, last = batch.header.seq, batch.cursor.seq
        if self._given_up and self._given_up[-1][1] == first - 1:
            first = self._given_up.pop()[0]
        self._given_up.append((first, last))
        self._show(batch)

    def confirm(self, batches: Sequence[Batch]) -> None:
        """Publish batches that are in the journal now, and tell what had to be given up meanwhile."""
        with self._lock:
            for batch in batches:
                self._unwritten.popleft()
                if self._unshown and self._unshown[0] is batch:
                    self._unshown.popleft()
                self._unwritten_bytes -= len(batch.body)
                self._server.publish(batch)
                self.written = batch.cursor.seq
            self._confirm_marks()
            for first, last in self._given_up:
                self._on_missing(first, last)
            self._given_up.clear()

    def show_unjournaled(self) -> None:
        """While the disk does not answer, publish what waits for it, marked as such."""
        if not self._journal.is_held_up(UNJOURNALED_SECONDS):
            return
        with self._lock:
            while self._unshown:
                self._show(self._unshown.popleft())

    def _show(self, batch: Batch) -> None:
        header = replace(batch.header, unjournaled=True)
        self._server.publish(Batch(header, encode_header(header), batch.body))

    def wait_for_mark(self, mark: int, timeout: float) -> bool:
        """Wait, on another thread, until a mark is in the journal; False if it is not in time."""
        with self._mark_written:
            return self._mark_written.wait_for(lambda: self._last_mark >= mark, timeout)

    def _note_marks(self, batches: Sequence[Batch]) -> None:
        for batch in batches:
            event = batch.events[-1] if MARK.encode() in batch.body else None
            if event and event.name == MARK and event.type == "lifecycle":
                self._marks.append((batch.cursor.seq, event.value["mark"]))

    def _confirm_marks(self) -> None:
        while self._marks and self._marks[0][0] <= self.written:
            with self._mark_written:
                self._last_mark = self._marks.popleft()[1]
                self._mark_written.notify_all()
