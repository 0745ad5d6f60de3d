from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path

import pytest

from trainwire_protocol.errors import InvalidEventError
from trainwire_sinks import AppendSink, Event, State
from trainwire_sinks.testing.check_sink import check_sink, record, run_sink, sample_run


class Counting(AppendSink):
    """Writes a running number for each event."""

    name = "counting"
    file_name = "numbers.txt"

    async def restore(self, state: State) -> None:
        self.count: int = state.get("count", 0)

    def state(self) -> State:
        return {"count": self.count}

    async def handle(self, events: Sequence[Event]) -> None:
        for event in events:
            self.count += 1
            await self.output.write(f"{self.count} {event.name}\n")


class Forgetful(Counting):
    """Has a state, and does not tell it."""

    def state(self) -> State:
        return {}


class Restless(Counting):
    """Writes something that does not follow from the events."""

    clock = itertools.count()

    async def handle(self, events: Sequence[Event]) -> None:
        await self.output.write(f"{next(self.clock)}\n")


class Hasty(Counting):
    """Writes past its output."""

    async def handle(self, events: Sequence[Event]) -> None:
        with self.output.path.with_suffix(".extra").open("a") as file:
            file.write("x\n")


class Committal(Counting):
    """Writes a line when it happens to be flushed."""

    async def flush(self) -> None:
        await self.output.write("flushed\n")


def test_a_sink_that_does_right_passes(tmp_path: Path) -> None:
    """A sink whose state is whole gives the same bytes wherever it is killed."""
    check_sink(Counting, tmp_path)


@pytest.mark.parametrize("sink", [Forgetful, Restless, Hasty, Committal])
def test_a_sink_that_does_wrong_is_found_out(tmp_path: Path, sink: type[Counting]) -> None:
    """State that is not told, output that depends on anything but events, and writing past the output are found."""
    with pytest.raises(AssertionError, match=r"numbers\.(txt|extra) differs at byte"):
        check_sink(sink, tmp_path)


def test_a_run_of_ones_own_events_is_recorded(tmp_path: Path) -> None:
    """A sink can be run on events that its author wrote down."""
    batches = record([[Event("a", 1.0, "scalar", 0.0, 0)], [Event("b", 1.0, "scalar", 0.0, 0)]])
    run_sink(Counting, tmp_path, batches)
    assert (tmp_path / "numbers.txt").read_text() == "1 a\n2 b\n"


def test_an_event_that_cannot_be_is_not_recorded() -> None:
    """What the wire does not allow is refused as it would be there."""
    with pytest.raises(InvalidEventError, match="not a number"):
        record([[Event("a", "text", "scalar", 0.0, 0)]])


def test_the_sample_has_every_type() -> None:
    """The run that sinks are checked with leaves no type of event out."""
    types = {event.type for batch in sample_run() for event in batch.events}
    assert types == {
        "scalar", "scalars", "text", "histogram", "image", "audio", "table", "hparams", "log", "lifecycle", "hologram",
    }  # fmt: skip
