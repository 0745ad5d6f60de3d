"""Exactly once: brings batches into one sink's output, whatever happens in between.

A commit is the cursor, the output's length and the sink's state, written after the output was flushed. Going back to
it, and handling again what came after, gives the same bytes as if nothing had happened.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from trainwire_protocol.errors import CursorFileError, MalformedBatchError, OutputChangedError, OutputError
from trainwire_protocol.events import Event
from trainwire_protocol.journal.attempts import resumed_from
from trainwire_protocol.journal.files import remove_unfinished
from trainwire_protocol.wire import START, Batch, Cursor
from trainwire_sinks.runtime.base import Sink
from trainwire_sinks.runtime.cursor import KEPT_MARKS, Commit, CursorFile, Savepoint

logger = logging.getLogger("trainwire")


class Delivery:
    """One sink, its output and its cursor.

    Args:
        make_sink: makes the sink; a fresh one each time its output is brought back.
        folder: the output folder.
        rank: the rank whose events are delivered.
        run: the run's name, if it is known already.
    """

    def __init__(self, make_sink: Callable[[], Sink], folder: Path, rank: int, run: str | None = None) -> None:
        self._make_sink = make_sink
        self._folder = folder
        self._rank = rank
        self._run = run
        self._begin_sink()
        self._file = CursorFile(folder, self.sink.name, rank)
        self._commit = Commit()
        self.cursor = START
        """After the last batch that was delivered, committed or not."""

    @property
    def committed(self) -> Cursor:
        """The cursor of the last commit."""
        return self._commit.point.cursor

    async def restore(self) -> None:
        """Bring output and sink back to the last commit, or begin them if there is none.

        Raises:
            OutputError: the output is another run's, or a file is in its place that no sink wrote.
        """
        try:
            await asyncio.to_thread(remove_unfinished, self._file.path)
            commit = await asyncio.to_thread(self._file.load)
            if commit is None:
                await self._refuse_foreign_file()
                await self.begin()
            else:
                self._commit = commit
                self._check_run(self._run)
                await self._go_back(commit.point)
                # What an earlier process left undone is taken up at once; an output that is empty is begun.
                await (self.sink.output.flush() if commit.point.length else self._flush())
        except (OutputChangedError, CursorFileError) as error:
            logger.warning("%s: %s; writing it anew from the run's beginning", self.sink.name, error)
            await self.begin()

    async def begin(self) -> None:
        """Begin the output, whatever it held."""
        # The cursor goes first: a crash between the two must not leave one that another output fits by chance.
        await self._save(Commit(self._commit.run))
        await self._go_back(Savepoint())
        await self._flush()

    async def deliver(self, batch: Batch) -> bool:
        """Hand a batch to the sink.

        Returns:
            False if the output was begun anew instead, as a resumed run has superseded what it holds and the mark that
            the run was resumed from is not known here: it has to be given all that is not superseded.

        Raises:
            OutputError: the output is another run's.
        """
        self._check_run(batch.header.run)
        events = _events(batch)
        origin = resumed_from(events[0]) if events else None
        if origin is not None and not await self._supersede(origin):
            return False
        if batch.header.channel in self.sink.channels:
            self.sink.batch = batch
            await self.sink.handle(events)
        self.cursor = batch.cursor
        if events and events[-1].name == "run/marked" and not self.sink.keeps_superseded:
            await self._remember_mark()
        return True

    async def commit(self) -> None:
        """Flush the output and write down how far it has got."""
        await self._flush()
        await self._save(replace(self._commit, point=self._here()))

    async def close(self) -> None:
        """Let go of the output as it stands: what was not committed is lost, and will be read again."""
        await self.sink.output.close()

    def _begin_sink(self) -> None:
        self.sink = self._make_sink()
        self.sink.output = self.sink.make_output(self._folder, self._rank)

    async def _go_back(self, point: Savepoint) -> None:
        await self.close()
        self._begin_sink()
        await self.sink.output.open(point.length)
        await self.sink.restore(point.state)
        self.cursor = point.cursor

    async def _refuse_foreign_file(self) -> None:
        if await asyncio.to_thread(self.sink.output.exists):
            raise OutputError(
                f"there is an output of {self.sink.name} in {self._folder} already, with no cursor beside it: "
                "move it away, or choose another folder with --output"
            )

    def _check_run(self, run: str | None) -> None:
        if self._commit.run is None:
            self._commit = replace(self._commit, run=run)
        elif run is not None and self._commit.run != run:
            raise OutputError(
                f"the output of {self.sink.name} in {self._folder} is of run {self._commit.run}, and this is run "
                f"{run}: choose another folder with --output"
            )

    async def _supersede(self, origin: Cursor) -> bool:
        """Bring the output back to where the run was resumed from; False if it had to be begun anew."""
        if self.sink.keeps_superseded or self.cursor <= origin:
            return True
        marks = tuple(mark for mark in self._commit.marks if mark.cursor <= origin)
        try:
            if marks and marks[-1].cursor == origin:
                # The cursor goes back first, as a crash after it only reads again what is superseded.
                await self._save(replace(self._commit, point=marks[-1], marks=marks))
                await self._go_back(marks[-1])
                return True
        except OutputChangedError as error:
            logger.warning("%s: %s", self.sink.name, error)
        await self.begin()
        return origin <= START

    async def _remember_mark(self) -> None:
        await self._flush()
        marks = (*self._commit.marks, self._here())
        self._commit = replace(self._commit, marks=marks[-KEPT_MARKS:])

    async def _flush(self) -> None:
        await self.sink.flush()
        await self.sink.output.flush()

    def _here(self) -> Savepoint:
        return Savepoint(self.cursor, self.sink.output.length, self.sink.state())

    async def _save(self, commit: Commit) -> None:
        await asyncio.to_thread(self._file.save, commit)
        self._commit = commit


def _events(batch: Batch) -> Sequence[Event]:
    try:
        return batch.events
    except MalformedBatchError as error:
        logger.warning("the batch at attempt %d, seq %d: %s; skipped", batch.header.attempt, batch.header.seq, error)
        return ()
