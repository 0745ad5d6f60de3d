"""Exactly-once delivery of batches into one sink's output.

A commit consists of the cursor, the output's length and the sink's state, and is saved after the output has been
flushed. Rolling back to it and handling the later events again gives the same bytes as an uninterrupted run.

When the run starts anew, the output of the earlier attempts is kept aside under another name, and an empty one begins.
The commit that says so is saved first, so that after a crash the output is renamed once, whether or not it was before.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

from trainwire_protocol.errors import CursorFileError, MalformedBatchError, OutputChangedError, OutputError
from trainwire_protocol.events import Event
from trainwire_protocol.journal.attempts import MARK, NOTHING, resumed_from
from trainwire_protocol.journal.files import remove_unfinished
from trainwire_protocol.wire import START, Batch, Cursor
from trainwire_sinks.runtime.cursor import KEPT_MARKS, Commit, CursorFile, Savepoint
from trainwire_sinks.runtime.sink import Sink

logger = logging.getLogger("trainwire")


class Delivery:
    """One sink, its output and its cursor.

    Args:
        make_sink: creates the sink; called again each time the output is rolled back.
        folder: the output folder.
        rank: the rank whose events are delivered.
        run: the run's name, if it is known already.
    """

    def __init__(self, make_sink: Callable[[], Sink], folder: Path, rank: int, run: str | None = None) -> None:
        self._make_sink = make_sink
        self._folder = folder
        self._rank = rank
        self._run = run
        self._create_sink()
        self._file = CursorFile(folder, self.sink.name, rank)
        self._commit = Commit()
        self.cursor = START
        """Position after the last batch that was delivered, committed or not."""

    @property
    def committed(self) -> Cursor:
        """The cursor of the last commit."""
        return self._commit.point.cursor

    async def restore(self) -> None:
        """Roll output and sink back to the last commit, or start the output if there is none.

        Raises:
            OutputError: the output belongs to another run, or is a file that no sink wrote.
        """
        try:
            await asyncio.to_thread(remove_unfinished, self._file.path)
            commit = await asyncio.to_thread(self._file.load)
            if commit is None:
                await self._refuse_foreign_file()
                await self.start_over()
                return
            self._commit = commit
            self._check_run(self._run)
            if commit.ended is not None:
                await self._finish_aside(commit.ended)
            await self._roll_back(commit.point)
            # Flushing the output resumes the sends that an earlier process left pending; an empty output is written.
            await (self.sink.output.flush() if commit.point.length else self._flush())
        except (OutputChangedError, CursorFileError) as error:
            logger.warning("%s: %s; rewriting it from the beginning of the run", self.sink.name, error)
            await self.start_over()

    async def start_over(self) -> None:
        """Empty the output, reset the sink, and commit this."""
        # The cursor goes first: after a crash between the two, an old cursor must not match another output by chance.
        await self._save(Commit(self._commit.run))
        await self._roll_back(Savepoint())
        await self._flush()

    async def deliver(self, batch: Batch) -> bool:
        """Pass a batch to the sink.

        Returns:
            False if the output was emptied instead: it holds events that a resumed run has superseded, and there is no
            savepoint at the mark that the run was resumed from. The caller must read the run again, without superseded
            events.

        Raises:
            OutputError: the output belongs to another run.
        """
        self._check_run(batch.header.run)
        events = _decode(batch)
        origin = resumed_from(events[0]) if events else None
        if origin is not None and not await self._supersede(batch.header.attempt, origin):
            return False
        if batch.header.channel in self.sink.channels:
            self.sink.batch = batch
            await self.sink.handle(events)
        self.cursor = batch.cursor
        if events and events[-1].name == MARK and not self.sink.keeps_superseded:
            await self._flush()
            marks = (*self._commit.marks, self._savepoint())[-KEPT_MARKS:]
            self._commit = replace(self._commit, marks=marks)
        return True

    async def commit(self) -> None:
        """Flush the output, and save its position."""
        await self._flush()
        await self._save(replace(self._commit, point=self._savepoint()))

    async def close(self) -> None:
        """Close the output without a commit; uncommitted events are read again later."""
        await self.sink.output.close()

    def _create_sink(self) -> None:
        self.sink = self._make_sink()
        self.sink.output = self.sink.make_output(self._folder, self._rank)

    async def _roll_back(self, point: Savepoint) -> None:
        await self.close()
        self._create_sink()
        await self.sink.output.open(point.length)
        await self.sink.restore(deepcopy(point.state))
        self.cursor = point.cursor

    async def _refuse_foreign_file(self) -> None:
        if await asyncio.to_thread(self.sink.output.exists):
            raise OutputError(
                f"the output of {self.sink.name} exists in {self._folder} already, without a cursor: "
                "move it away, or choose another folder with --output"
            )

    def _check_run(self, run: str | None) -> None:
        if self._commit.run is None:
            self._commit = replace(self._commit, run=run)
        elif run is not None and self._commit.run != run:
            raise OutputError(
                f"the output of {self.sink.name} in {self._folder} belongs to run {self._commit.run}, not to run "
                f"{run}: choose another folder with --output"
            )

    async def _supersede(self, attempt: int, origin: Cursor) -> bool:
        """Remove what an attempt supersedes from the output; return False if the output had to be emptied."""
        if self.sink.keeps_superseded or self.cursor <= origin:
            return True
        if origin.attempt < self._commit.start or origin == NOTHING:
            # No event of the output is kept. After a crash, the output may be aside already.
            if self._commit.start != attempt:
                await self._keep_aside(attempt)
            if origin != NOTHING:
                await self.start_over()
            return origin == NOTHING
        return await self._return_to_mark(origin)

    async def _return_to_mark(self, origin: Cursor) -> bool:
        """Roll back to the mark that the run was resumed from; return False if the output had to be emptied."""
        marks = tuple(mark for mark in self._commit.marks if mark.cursor <= origin)
        try:
            if marks and marks[-1].cursor == origin:
                # The cursor goes first: after a crash between the two, superseded events are merely read again.
                await self._save(replace(self._commit, point=marks[-1], marks=marks))
                await self._roll_back(marks[-1])
                return True
        except OutputChangedError as error:
            logger.warning("%s: %s", self.sink.name, error)
        await self.start_over()
        return False

    async def _keep_aside(self, start: int) -> None:
        """Keep the output aside as that of the last attempt in it, and begin an empty one with the attempt `start`."""
        if self.cursor == START:
            self._commit = replace(self._commit, start=start)
            return
        await self._flush()
        ended = self.cursor.attempt
        if self.sink.output.length:
            logger.info("%s: a new start follows; the output up to attempt %d is kept aside", self.sink.name, ended)
        await self._save(Commit(self._commit.run, Savepoint(self.cursor), start=start, ended=ended))
        await self._finish_aside(ended)
        await self._roll_back(self._commit.point)
        await self._flush()

    async def _finish_aside(self, ended: int) -> None:
        await self.sink.output.close()
        await self.sink.output.keep_aside(ended)
        await self._save(replace(self._commit, ended=None))

    async def _flush(self) -> None:
        await self.sink.flush()
        await self.sink.output.flush()

    def _savepoint(self) -> Savepoint:
        # A mark may be returned to much later, and more than once; a sink may go on to change the map that it returns.
        return Savepoint(self.cursor, self.sink.output.length, deepcopy(self.sink.state()))

    async def _save(self, commit: Commit) -> None:
        await asyncio.to_thread(self._file.save, commit)
        self._commit = commit


def _decode(batch: Batch) -> Sequence[Event]:
    try:
        return batch.events
    except MalformedBatchError as error:
        logger.warning("skipped the batch at attempt %d, seq %d: %s", batch.header.attempt, batch.header.seq, error)
        return ()
