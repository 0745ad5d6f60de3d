"""One rank of a run on a relay's disk: a journal in a run folder like any other, with the same batches."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from trainwire_protocol.journal.run_folder import Attempt, Lease, copy_attempt, list_attempts
from trainwire_protocol.journal.segments import JournalReader, JournalWriter, recover
from trainwire_protocol.journal.tail import events_of
from trainwire_protocol.process import ProcessIdentity
from trainwire_protocol.wire import START, Batch, Cursor

HPARAMS: Final = b"hparams"


class Copy:
    """A rank's journal, which is written on where it ends. Its methods work on files: not for an event loop."""

    def __init__(self, folder: Path, run: str, rank: int, session: str) -> None:
        """Open the copy, or begin one.

        Args:
            folder: the copied run's folder.
            run: the run's name.
            rank: whose stream it is.
            session: the relay's own.

        Raises:
            UsageError: the folder holds another run.
            OSError: it cannot be read or written.
        """
        self.folder, self.run, self.rank = folder, run, rank
        self.cursor = START
        """Everything up to here is in the journal."""
        self.ended: str | None = None
        """Name of the last event of the attempt that is copied, if that has it."""
        self.heads: dict[str, int] = {}
        """For each channel the seq of its last event in that attempt."""
        self.hparams: dict[str, Any] = {}
        self._session = session
        known = list_attempts(folder, rank)
        self.attempt = copy_attempt(folder, run, rank, known[-1].number if known else 0)
        self.cursor = Cursor(self.attempt.number, -1)
        self._writer = JournalWriter(self.attempt.folder)
        last = recover(self.attempt.folder)
        if last:
            self._note(last)
        for attempt in known:
            self._note_hyperparameters(_first_batches(attempt))

    def begin(self, number: int) -> None:
        """Go on with a later attempt."""
        self._writer.close()
        self.attempt = copy_attempt(self.folder, self.run, self.rank, number)
        self._writer = JournalWriter(self.attempt.folder)
        self.cursor, self.ended = Cursor(number, -1), None
        self.heads = {}
        self.hold()

    def append(self, batches: Sequence[Batch]) -> None:
        """Write batches of the present attempt behind the others.

        Raises:
            OSError: the disk does not take them; nothing of them is there then, so call it again.
        """
        self._writer.append(batches)
        for batch in batches:
            self._note(batch)
        self._note_hyperparameters(batches)

    def hold(self) -> None:
        """Write or renew the lease: it holds while the attempt is copied, also while this process is started again."""
        process = ProcessIdentity.of_this_process()
        self.attempt.write_lease(Lease(process, self._session, time.time(), relay=True))

    def renew(self) -> None:
        """Renew the lease, if the disk takes that now."""
        with contextlib.suppress(OSError):
            self.hold()

    def end(self, trainer: ProcessIdentity | None) -> None:
        """The attempt is over: release the lease if it has its last event, else leave it as its dead trainer did."""
        process = trainer or ProcessIdentity.of_this_process()
        self.attempt.write_lease(Lease(process, self._session, time.time(), released=self.ended is not None))

    def close(self) -> None:
        """Close the files."""
        self._writer.close()

    def _note(self, batch: Batch) -> None:
        header = batch.header
        self.cursor = batch.cursor
        self.heads = {**header.before, header.channel: batch.cursor.seq}
        if header.last:
            events = events_of(batch)
            self.ended = events[-1].name if events else "run/finished"

    def _note_hyperparameters(self, batches: Sequence[Batch]) -> None:
        for batch in batches:
            if HPARAMS in batch.body:
                for event in events_of(batch):
                    self.hparams |= event.value if event.type == "hparams" else {}


def _first_batches(attempt: Attempt) -> list[Batch]:
    reader = JournalReader(attempt.folder)
    try:
        return reader.read()
    finally:
        reader.close()
