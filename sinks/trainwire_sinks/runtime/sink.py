"""The base classes of sinks."""

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
"""The state that a sink resumes from: a small JSON-serializable map. `Any`, because only the sink knows its values."""


@dataclass(frozen=True)
class NoOptions:
    """The options of a sink that has none."""


@dataclass(frozen=True)
class PublisherStatus:
    """The state of the process that publishes the run, as far as it is known at one moment."""

    now: float
    """Seconds since the epoch, by this host's clock."""
    heartbeat: Heartbeat | None
    """The last heartbeat received; None while history is read, and if the source has no heartbeats."""
    silence: float
    """Seconds without a heartbeat, an event or a renewed lease; 0 while they arrive."""
    is_over: bool = False
    """Whether the run is over and every event was handled."""


class Sink:
    """Turns the events of one rank of a run into something outside the training process.

    The runner calls `restore` once, then `handle` for each batch, and `flush` followed by `state` for each commit. An
    exception from any of them makes the runner return to the last commit and try again.

    What a sink writes must depend on the events alone, not on the clock, the host or a random number. The output is
    then the same whenever, wherever and however often the sink runs. It may depend on the bounds of batches, which
    never change.

    The first line of the class's docstring is its help on the command line.
    """

    name: ClassVar[str]
    """The name on the command line: lower-case words joined by "-"."""
    channels: ClassVar[frozenset[str]] = frozenset({"event"})
    """The channels whose events the sink receives; "media" has images, sounds and large values."""
    keeps_superseded: ClassVar[bool] = False
    """Whether the output keeps events that a resumed run has superseded. If not, the runner removes them."""
    packages: ClassVar[tuple[str, ...]] = ()
    """Importable packages that the sink needs beyond the base install."""
    extra: ClassVar[str] = ""
    """The extra of Trainwire that installs `packages`."""
    tick_interval: ClassVar[float | None] = None
    """Seconds between calls of `tick`; None if it is never called."""
    retries_on: ClassVar[tuple[type[Exception], ...]] = (OSError,)
    """Errors that may pass, after which the sink is run again from its last commit; any other error shows a bug."""
    waits_for_output: ClassVar[bool] = False
    """Whether an OSError is retried without limit, because the output may be unavailable for long."""
    options: object = NoOptions()
    """A frozen dataclass with a default for each field, from which the command line is derived."""

    is_replay: bool = False
    """Whether `trainwire replay` runs the sink. If so, the sink must not notify anybody."""
    output: Output
    """Where the sink writes; set by the runner before `restore`."""
    batch: Batch
    """The batch whose events `handle` receives; set by the runner, for sinks that need an event's identity."""

    def __init__(self, options: object = None) -> None:
        if options is not None:
            self.options = options

    def make_output(self, folder: Path, rank: int) -> Output:  # noqa: ARG002  # for sinks that write files
        """Return the output of a rank, in the output folder."""
        return NoOutput()

    async def restore(self, state: State) -> None:
        """Resume from what `state` returned at the last commit; the map is empty if the output is empty.

        Raises:
            OutputChangedError: the output does not match `state` and must be rewritten.
        """

    async def handle(self, events: Sequence[Event]) -> None:
        """Handle the events of one batch. Events arrive in the order in which they were recorded, each once."""
        raise NotImplementedError

    async def tick(self, status: PublisherStatus) -> bool:  # noqa: ARG002  # for sinks that watch the time
        """Check whether the training makes progress.

        The runner calls it every `tick_interval` seconds, also while history is read, and once when the run is over.
        Its output may depend on the clock, but the key of a message must not.

        Returns:
            whether there is something to commit.
        """
        return False

    async def flush(self) -> None:
        """Write everything to the output; a commit follows."""

    def state(self) -> State:
        """Return what `restore` needs to resume from here. It is called right after `flush`."""
        return {}

    async def settle(self) -> None:
        """Wait for pending work when the run is over; cancelled if it takes too long."""


class AppendSink(Sink):
    """A sink that appends to one file, with `await self.output.write("a line\\n")`."""

    file_name: ClassVar[str]
    output: AppendOutput

    def make_output(self, folder: Path, rank: int) -> AppendOutput:
        """Return the file, in the folder of its rank."""
        return AppendOutput(rank_folder(folder, rank) / self.file_name)


class ReplaceSink(Sink):
    """A sink that rewrites its one file in `flush`, with `await self.output.replace(data)`."""

    file_name: ClassVar[str]
    output: ReplaceOutput

    def make_output(self, folder: Path, rank: int) -> ReplaceOutput:
        """Return the file, in the folder of its rank."""
        return ReplaceOutput(rank_folder(folder, rank) / self.file_name)


def rank_folder(folder: Path, rank: int) -> Path:
    """Return the folder of a rank's files; rank 0 uses the output folder itself."""
    return folder / f"rank-{rank}" if rank else folder
