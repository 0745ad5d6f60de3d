"""Event files for TensorBoard."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from trainwire_protocol.attempts import NOTHING, resumed_from
from trainwire_protocol.events import Event
from trainwire_sinks.base import Sink, State
from trainwire_sinks.series import SeriesOutput


class TensorBoard(Sink):
    """Writes event files for TensorBoard into tensorboard/: every type but logs, each in its own dashboard.

    Each rank has a folder of its own, which TensorBoard takes for a run. A resumed run goes on in a new file that
    begins by taking back what was superseded: truncating a file makes TensorBoard stay on what it has read.
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
        """Take up which tags and charts there are."""
        # Here, so that listing the sinks does not import TensorBoard.
        from trainwire_sinks.summaries.records import Summaries

        self._summaries = Summaries(state)

    def state(self) -> State:
        """Which tags and charts there are."""
        return self._summaries.state()

    async def handle(self, events: Sequence[Event]) -> None:
        """Write the batch's records."""
        if not events:
            return
        if not self.output.length:
            await self.output.write(self._summaries.file_head(events[0].walltime, 0))
        elif (origin := resumed_from(events[0])) is not None:
            await self.output.begin_next()
            from_step = events[0].value.get("from_step")
            is_known = isinstance(from_step, int) and origin != NOTHING
            # One step later than the last that is kept: TensorBoard forgets the step that is named, too.
            await self.output.write(self._summaries.file_head(events[0].walltime, from_step + 1 if is_known else 0))
        await self.output.write(self._summaries.records(events, self.batch.header.run))
