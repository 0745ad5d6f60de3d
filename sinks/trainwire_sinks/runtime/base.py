"""What a sink is: events go in, something outside the training process comes out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, TypeAlias

from trainwire_protocol.events import Event
from trainwire_protocol.wire import Batch
from trainwire_sinks.runtime.output import AppendOutput, NoOutput, Output, ReplaceOutput

if TYPE_CHECKING:
    from trainwire_protocol.transport.live import Heartbeat

State: TypeAlias = dict[str, Any]
"""What a sink has to know to go on: a small map that JSON can hold. `Any`, as only its sink knows what it put there."""


@dataclass(frozen=True)
class NoOptions:
    """The options of a sink that has none."""


@dataclass(frozen=True)
class PublisherStatus:
    """What is known at a moment of who publishes the run."""

    now: float
    """Seconds since the epoch, by this host's clock."""
    heartbeat: Heartbeat | None
    """The last one that was heard; None as long as history is read, and where none can be heard."""
    silence: float
    """Seconds for which no sign of it was seen: no heartbeat, event or renewed lease; 0 as long as there are any."""
    is_over: bool = False
    """The run is over, and everything was handled."""


class Sink:
    """Turns the events of one rank of a run into something outside the training process.

    The first line of a sink's docstring is its help. The runner calls, always in this order: `restore` once, then
    `handle` for each batch, `flush` and `state` whenever it commits. What a sink writes has to follow from the events
    alone: no clock, host name or random number, so that it does not matter when, where or how often it ran. A batch's
    bounds never change, so they may matter.

    An exception from any of these makes the runner go back to the last commit and try again.
    """

    name: ClassVar[str]
    """What the command line calls it: lower-case words joined by "-"."""
    channels: ClassVar[frozenset[str]] = frozenset({"event"})
    """The channels whose events it wants; "media" has images, sounds and large values."""
    keeps_superseded: ClassVar[bool] = False
    """Whether events stay in the output that a resumed run has superseded. If not, the runner takes them out."""
    packages: ClassVar[tuple[str, ...]] = ()
    """Importable packages it needs that the base install does not hold."""
    extra: ClassVar[str] = ""
    """The extra of Trainwire that installs `packages`."""
    tick_interval: ClassVar[float | None] = None
    """How often, in seconds, `tick` is called; None for never."""
    waits_for_output: ClassVar[bool] = False
    """Whether what it writes to may be away for long: then an OSError is tried again for as long as the sink runs."""
    options: object = NoOptions()
    """Its options: a frozen dataclass with a default for each field. The command line is derived from it."""

    is_replay: bool = False
    """Whether its output is written again, by `trainwire replay`: what would be news live is to be told to nobody."""
    output: Output
    """Where it writes; set by the runner before `restore`."""
    batch: Batch
    """The batch whose events `handle` is given; set by the runner, for sinks that need an event's identity."""

    def __init__(self, options: object = None) -> None:
        if options is not None:
            self.options = options

    def make_output(self, folder: Path, rank: int) -> Output:  # noqa: ARG002  # for those that write files
        """What it writes to, below the output folder; a file of its own for each rank."""
        return NoOutput()

    async def restore(self, state: State) -> None:
        """Take up where `state` was taken; it is empty if the output is.

        Raises:
            OutputChangedError: the output is not what `state` says, and has to be written anew.
        """

    async def handle(self, events: Sequence[Event]) -> None:
        """Take the events of one batch, in the order recorded, each once."""
        raise NotImplementedError

    async def tick(self, status: PublisherStatus) -> bool:  # noqa: ARG002  # for those that watch the time
        """Look at what is known now, for a sink that watches whether the training goes on.

        It is called every `tick_interval` seconds, while history is read as well, and once at the run's end. What it
        writes does not follow from the events alone: give it a key that does, if it is a message.

        Returns:
            whether there is something to commit.
        """
        return False

    async def flush(self) -> None:
        """Hand everything to the output: a commit follows."""

    def state(self) -> State:
        """What `restore` needs to go on from here. Taken right after `flush`."""
        return {}

    async def settle(self) -> None:
        """Wait for what is still on its way when the run is over; cancelled if it takes too long."""


class AppendSink(Sink):
    """A sink that appends to one file: `await self.output.write("a line\\n")`."""

    file_name: ClassVar[str]
    output: AppendOutput

    def make_output(self, folder: Path, rank: int) -> AppendOutput:
        """The file, in a folder of its own for any rank but 0."""
        return AppendOutput(rank_folder(folder, rank) / self.file_name)


class ReplaceSink(Sink):
    """A sink that writes its one file anew when something has changed: `await self.output.replace(data)` in `flush`."""

    file_name: ClassVar[str]
    output: ReplaceOutput

    def make_output(self, folder: Path, rank: int) -> ReplaceOutput:
        """The file, in a folder of its own for any rank but 0."""
        return ReplaceOutput(rank_folder(folder, rank) / self.file_name)


def rank_folder(folder: Path, rank: int) -> Path:
    """Where a rank's files are: rank 0 has those of a run that has no other."""
    return folder / f"rank-{rank}" if rank else folder
