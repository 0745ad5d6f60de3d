from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path

import pytest

from trainwire_protocol.errors import InvalidEventError
from trainwire_sinks import AppendSink, Event, State
from trainwire_sinks.testing.check_sink import check_sink, record, run_sink, sample_run


class Counting(AppendSink):
    """Writes a line with a number for each event."""

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


class WithoutState(Counting):
    """Has a state, and does not return it."""

    def state(self) -> State:
        return {}


class Nondeterministic(Counting):
    """Writes something that does not depend on the events."""

    clock = itertools.count()

    async def handle(self, events: Sequence[Event]) -> None:
        await self.output.write(f"{next(self.clock)}\n")


class BypassingOutput(Counting):
    """Writes to a file other than its output."""

    async def handle(self, events: Sequence[Event]) -> None:
        with self.output.path.with_suffix(".extra").open("a") as file:
            file.write("x\n")


class WritingOnFlush(Counting):
    """Writes a line for each flush."""

    async def flush(self) -> None:
        await self.output.write("flushed\n")


def test_a_correct_sink_passes(tmp_path: Path) -> None:
    """A sink with a complete state writes the same bytes wherever it is killed."""
    check_sink(Counting, tmp_path)


@pytest.mark.parametrize("sink", [WithoutState, Nondeterministic, BypassingOutput, WritingOnFlush])
def test_an_incorrect_sink_fails(tmp_path: Path, sink: type[Counting]) -> None:
    """Missing state, output that depends on anything but the events, and other files are detected."""
    with pytest.raises(AssertionError, match=r"numbers(\.attempt-\d)?\.(txt|extra) differs at byte"):
        check_sink(sink, tmp_path)


def test_a_run_can_be_recorded(tmp_path: Path) -> None:
    """A sink can be run on events that the test defines."""
    batches = record([[Event("a", 1.0, "scalar", 0.0, 0)], [Event("b", 1.0, "scalar", 0.0, 0)]])
    run_sink(Counting, tmp_path, batches)
    assert (tmp_path / "numbers.txt").read_text() == "1 a\n2 b\n"


def test_an_invalid_event_is_not_recorded() -> None:
    """An event that the protocol does not allow raises InvalidEventError."""
    with pytest.raises(InvalidEventError, match="not a number"):
        record([[Event("a", "text", "scalar", 0.0, 0)]])


def test_the_sample_run_has_every_type() -> None:
    """The sample run has events of every type."""
    types = {event.type for batch in sample_run() for event in batch.events}
    assert types == {
        "scalar", "scalars", "text", "histogram", "image", "audio", "table", "hparams", "summary", "log", "lifecycle",
        "hologram",
    }  # fmt: skip
