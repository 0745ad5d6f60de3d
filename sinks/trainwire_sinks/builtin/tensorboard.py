"""Event files for TensorBoard."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from trainwire_protocol.events import Event
from trainwire_protocol.journal.attempts import MARK, NOTHING, resumed_from
from trainwire_sinks.runtime.base import Sink, State
from trainwire_sinks.runtime.output import SeriesOutput
from trainwire_sinks.tensorboard.marks import Seam


class TensorBoard(Sink):
    """Writes event files for TensorBoard into tensorboard/: every type but logs, each in its own dashboard.

    Each rank has a folder of its own, which TensorBoard takes for a run. A resumed run goes on in a new file that
    takes everything back and repeats what counts: truncating a file makes TensorBoard stay on what it has read.
    """

    name = "tensorboard"
    channels = frozenset({"event", "media"})
    keeps_superseded = True
    packages = ("tensorboard", "google_crc32c", "PIL")
    extra = "tensorboard"
    output: SeriesOutput

    def make_output(self, folder: Path, rank: int) -> SeriesOutput:
        """The files of a rank; TensorBoard reads them in the order of their names."""
        return SeriesOutput(folder / "tensorboard" / f"rank-{rank}", "events.out.tfevents.{}.trainwire")

    async def restore(self, state: State) -> None:
        """Take up which tags, charts and marks there are."""
        # Here, so that listing the sinks does not import TensorBoard.
        from trainwire_sinks.tensorboard import records

        self._file_head = records.file_head
        self._summaries = records.Summaries(state)

    def state(self) -> State:
        """Which tags, charts and marks there are."""
        return self._summaries.state()

    async def handle(self, events: Sequence[Event]) -> None:
        """Write the batch's records."""
        if not events:
            return
        if not self.output.length:
            await self._begin_file(events[0].walltime, self._summaries.marks.seam(NOTHING, 0))
        elif (origin := resumed_from(events[0])) is not None:
            from_step = events[0].value.get("from_step")
            seam = self._summaries.marks.seam(origin, from_step if isinstance(from_step, int) else 0)
            await self.output.begin_next()
            await self._begin_file(events[0].walltime, seam)
        await self.output.write(self._summaries.records(events, self.batch.header.run, self.output.length))
        if events[-1].type == "lifecycle" and events[-1].name == MARK:
            self._summaries.marks.add(self.batch.cursor, events[-1].step, self.output.length)

    async def _begin_file(self, walltime: float, seam: Seam) -> None:
        await self.output.write(self._file_head(walltime, seam.first_step))
        start = self.output.length
        for begin, end in seam.repeated:
            await self.output.repeat(begin, end)
        self._summaries.marks.go_on(seam, start, self.output.length)
        await self.output.write(self._summaries.layout(walltime))
