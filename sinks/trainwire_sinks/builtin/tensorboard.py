"""Writes event files for TensorBoard."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from trainwire_protocol.events import HIGHEST_STEP, LOWEST_STEP, Event
from trainwire_protocol.journal.attempts import MARK, NOTHING, resumed_from
from trainwire_protocol.wire import START, Cursor
from trainwire_sinks.runtime.sink import Sink, State
from trainwire_sinks.tensorboard.event_files import EventFiles
from trainwire_sinks.tensorboard.marks import FileStart


class TensorBoard(Sink):
    """Writes event files for TensorBoard into tensorboard/: every type but logs, each in its own dashboard.

    Each rank has its own folder, which TensorBoard shows as a run, and so has each new start of the run. A resumed run
    continues in a new file, which makes TensorBoard discard the earlier points and repeats those that are kept:
    TensorBoard does not notice when a file is truncated.
    """

    name = "tensorboard"
    channels = frozenset({"event", "media"})
    keeps_superseded = True
    packages = ("tensorboard", "google_crc32c", "PIL")
    extra = "tensorboard"
    output: EventFiles

    def make_output(self, folder: Path, rank: int) -> EventFiles:
        """Return the files of a rank, which TensorBoard reads in the order of their names."""
        return EventFiles(folder / "tensorboard" / f"rank-{rank}", "events.out.tfevents.{}.trainwire")

    async def restore(self, state: State) -> None:
        """Resume with the tags, charts and marks."""
        # Imported here, so that listing the sinks does not import TensorBoard.
        from trainwire_sinks.tensorboard import records

        self._file_header = records.file_header
        self._encoder = records.RecordEncoder(state)
        self._last = Cursor(*state.get("last", START))
        self._starts: dict[str, int] = state.get("starts", {})
        """For each attempt, the one whose folder has its files; 0 is the first folder."""
        self._first_step: int = state.get("first_step", LOWEST_STEP)
        """The first step that a new file of a run below the rank makes TensorBoard discard."""
        await self.output.restore_runs(state.get("runs", {}))

    def state(self) -> State:
        """Return the tags, charts and marks, and the position and the starts of the run."""
        return {
            **self._encoder.state(), "last": list(self._last), "starts": self._starts,
            "first_step": self._first_step, "runs": self.output.run_lengths,
        }  # fmt: skip

    async def handle(self, events: Sequence[Event]) -> None:
        """Append the records of the events; a run that was resumed or started anew begins a new file."""
        last, self._last = self._last, self.batch.cursor
        if not events:
            return
        marks, origin = self._encoder.marks, resumed_from(events[0])
        if not self.output.length:
            self._starts = {str(self.batch.header.attempt): 0}
            await self._begin_file(events[0].walltime, marks.file_start(NOTHING, 0))
        elif origin is not None:
            await self._begin_attempt(events[0], origin, supersedes=origin < last)
        records = self._encoder.encode(events, self.batch.header.run, self.output.length)
        await self.output.write(records.own)
        for run, data in records.runs.items():
            await self.output.write_run(run, self._file_header(events[0].walltime, self._first_step), data)
        for part in records.files:
            await self.output.write_part(part)
        if events[-1].type == "lifecycle" and events[-1].name == MARK:
            marks.add_mark(self.batch.cursor, events[-1].step, self.output.length)

    async def _begin_attempt(self, first: Event, origin: Cursor, *, supersedes: bool) -> None:
        """Begin a new file, in the folder of the start that the run was resumed from, unless all points are kept."""
        attempt = self.batch.header.attempt
        start = attempt if origin == NOTHING else self._starts.get(str(origin.attempt), 0)
        self._starts = self._starts | {str(attempt): start}
        if supersedes:
            from_step = first.value.get("from_step")
            from_step = from_step if isinstance(from_step, int) else 0
            file_start = self._encoder.marks.file_start(origin, from_step)
            self._first_step = LOWEST_STEP if origin == NOTHING else min(from_step + 1, HIGHEST_STEP)
            self._encoder.begin_start(start)
            await self.output.begin_next(start)
            await self._begin_file(first.walltime, file_start)

    async def _begin_file(self, walltime: float, file_start: FileStart) -> None:
        await self.output.write(self._file_header(walltime, file_start.first_step))
        start = self.output.length
        for begin, end in file_start.repeated:
            await self.output.repeat(begin, end)
        self._encoder.marks.begin_file(file_start, start, self.output.length)
        await self.output.write(self._encoder.layout(walltime))
