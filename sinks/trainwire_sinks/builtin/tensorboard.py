"""Event files for TensorBoard."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from trainwire_protocol.attempts import NOTHING, resumed_from
from trainwire_protocol.events import Event
from trainwire_sinks.base import Sink, State
from trainwire_sinks.output import SeriesOutput


class TensorBoard(Sink):
    """Writes event files for TensorBoard into tensorboard/: scalars, text, histograms and hparams.

    Each rank has a folder of its own, which TensorBoard takes for a run. A resumed run goes on in a new file that
    begins by taking back what was superseded: truncating a file makes TensorBoard stay on what it has read.
    """

    name = "tensorboard"
    channels = frozenset({"event", "media"})
    keeps_superseded = True
    packages = ("tensorboard", "google_crc32c")
    extra = "tensorboard"
    output: SeriesOutput

    def make_output(self, folder: Path, rank: int) -> SeriesOutput:
        """The files of a rank; TensorBoard reads them in the order of their names."""
        return SeriesOutput(folder / "tensorboard" / f"rank-{rank}", "events.out.tfevents.{}.trainwire")

    async def restore(self, state: State) -> None:  # noqa: ARG002  # the files are the state
        """All that is to be known is how many files there are, and how long they are."""
        # Here, so that listing the sinks does not import TensorBoard.
        from trainwire_sinks import summaries

        self._summaries = summaries

    async def handle(self, events: Sequence[Event]) -> None:
        """Write the batch's records."""
        if not events:
            return
        origin = resumed_from(events[0])
        if not self.output.length:
            await self.output.write(self._summaries.file_head(events[0].walltime))
        elif origin is not None:
            await self._begin_next_file(events[0], is_empty=origin == NOTHING)
        await self.output.write(b"".join(self._summaries.records(events)))

    async def _begin_next_file(self, resumed: Event, *, is_empty: bool) -> None:
        """Begin the file of a resumed run; `is_empty` says that nothing of the run before was kept."""
        from_step = resumed.value.get("from_step")
        # One step later than what is kept: TensorBoard forgets the step that is named, too.
        first_step = 0 if is_empty or not isinstance(from_step, int) else from_step + 1
        await self.output.begin_next()
        await self.output.write(self._summaries.file_head(resumed.walltime))
        await self.output.write(self._summaries.restart(resumed.walltime, first_step))
