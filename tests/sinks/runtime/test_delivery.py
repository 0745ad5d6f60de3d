from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from trainwire_protocol.errors import OutputError
from trainwire_protocol.wire import Batch, Cursor, Header
from trainwire_sinks import AppendSink, Event, ReplaceSink, Sink, State
from trainwire_sinks.runtime.cursor import KEPT_MARKS, CursorFile
from trainwire_sinks.runtime.delivery import Delivery
from trainwire_sinks.testing.check_sink import record


class Names(AppendSink):
    """Appends the name of each event."""

    name = "names"
    file_name = "names.txt"

    async def handle(self, events: Sequence[Event]) -> None:
        await self.output.write("".join(f"{event.name}\n" for event in events))


class Total(ReplaceSink):
    """Keeps the number of events in its file."""

    name = "total"
    file_name = "total.txt"

    async def restore(self, state: State) -> None:
        self.total: int = state.get("total", 0)

    def state(self) -> State:
        return {"total": self.total}

    async def handle(self, events: Sequence[Event]) -> None:
        self.total += len(events)

    async def flush(self) -> None:
        await self.output.replace(str(self.total))


def named(*names: str) -> list[Event]:
    return [Event(name, 1.0, "scalar", 0.0, 0) for name in names]


def lifecycle(name: str, **fields: object) -> Event:
    return Event(name, fields, "lifecycle", 0.0, 0)


def resumed(attempt: int | None, seq: int = 0) -> Event:
    origin = None if attempt is None else {"attempt": attempt, "seq": seq}
    return lifecycle("run/resumed", **{"from": origin, "from_step": 0})


MARK = lifecycle("run/marked", mark=0)
ATTEMPT = [[*named("a"), MARK], named("b", "c")]
"""The mark has seq 1, the last event seq 3."""


def deliver(make_sink: Callable[[], Sink], folder: Path, batches: Sequence[Batch]) -> bool:
    """Restore, deliver, commit and close; return the result of the last `deliver`."""

    async def run() -> bool:
        delivery = Delivery(make_sink, folder, 0)
        (folder / ".trainwire").mkdir(exist_ok=True)
        try:
            await delivery.restore()
            result = True
            for batch in batches:
                if batch.cursor > delivery.cursor:
                    result = await delivery.deliver(batch)
            await delivery.commit()
        finally:
            await delivery.close()
        return result

    return asyncio.run(run())


def names_in(folder: Path) -> list[str]:
    return (folder / "names.txt").read_text().split()


def test_an_output_exists_before_any_event(tmp_path: Path) -> None:
    """A sink's output exists as soon as the sink has started."""
    deliver(Names, tmp_path, [])
    deliver(Total, tmp_path, [])
    assert (tmp_path / "names.txt").read_text() == ""
    assert (tmp_path / "total.txt").read_text() == "0"


def test_delivery_continues_after_the_last_commit(tmp_path: Path) -> None:
    """A second delivery of the same batches adds only what follows the first one's commit."""
    batches = record(ATTEMPT)
    for sink in (Names, Total):
        deliver(sink, tmp_path, batches[:1])
        deliver(sink, tmp_path, batches)
    assert names_in(tmp_path) == ["a", "run/marked", "b", "c"]
    assert (tmp_path / "total.txt").read_text() == "4"


def test_what_was_written_after_the_commit_is_truncated(tmp_path: Path) -> None:
    """Bytes past the committed length, as a crash leaves them, are removed."""
    batches = record(ATTEMPT)
    deliver(Names, tmp_path, batches[:1])
    with (tmp_path / "names.txt").open("a") as file:
        file.write("b\nc")
    deliver(Names, tmp_path, batches)
    assert names_in(tmp_path) == ["a", "run/marked", "b", "c"]


def test_the_temporary_files_of_a_killed_sink_are_removed(tmp_path: Path) -> None:
    """Files that were being written beside the output and the cursor are removed."""
    batches = record(ATTEMPT)
    deliver(Total, tmp_path, batches[:1])
    left = [tmp_path / ".total.txt.0123abcd", tmp_path / ".trainwire" / ".total-rank0.cursor.4567cdef"]
    for path in left:
        path.write_bytes(b"1")
    deliver(Total, tmp_path, batches)
    assert not any(path.exists() for path in left)
    assert (tmp_path / "total.txt").read_text() == "4"


@pytest.mark.parametrize("sink", [Names, Total])
def test_a_resumed_run_rolls_the_output_back_to_its_mark(tmp_path: Path, sink: type[Sink]) -> None:
    """Events after the mark that the run was resumed from are removed, from both kinds of output."""
    deliver(sink, tmp_path, record(ATTEMPT, [[resumed(0, 1), *named("d")]]))
    if sink is Names:
        assert names_in(tmp_path) == ["a", "run/marked", "run/resumed", "d"]
    else:
        assert (tmp_path / "total.txt").read_text() == "4"


class Counts(ReplaceSink):
    """Keeps the number of events of each name, in a map that is also its state."""

    name = "counts"
    file_name = "counts.txt"

    async def restore(self, state: State) -> None:
        self.counts: dict[str, int] = state.get("counts", {})

    def state(self) -> State:
        return {"counts": self.counts}

    async def handle(self, events: Sequence[Event]) -> None:
        for event in events:
            self.counts[event.name] = self.counts.get(event.name, 0) + 1

    async def flush(self) -> None:
        await self.output.replace(" ".join(f"{name}={count}" for name, count in self.counts.items()))


def test_a_mark_keeps_its_state_while_the_sink_changes_the_map(tmp_path: Path) -> None:
    """A run that is resumed twice from one mark has only what the last attempt added to it."""
    batches = record(ATTEMPT, [[resumed(0, 1), *named("d")]], [[resumed(0, 1), *named("e")]])
    deliver(Counts, tmp_path, batches)
    assert (tmp_path / "counts.txt").read_text() == "a=1 run/marked=1 run/resumed=1 e=1"


def test_a_mark_is_known_after_a_restart(tmp_path: Path) -> None:
    """Marks are part of the commit, so another process can roll back to them."""
    batches = record(ATTEMPT, [[resumed(0, 1), *named("d")]])
    deliver(Names, tmp_path, batches[:2])
    assert deliver(Names, tmp_path, batches)
    assert names_in(tmp_path) == ["a", "run/marked", "run/resumed", "d"]


@pytest.mark.parametrize("stops", [range(0), range(1, 8)])
def test_a_new_start_keeps_the_output_aside(tmp_path: Path, stops: range, caplog: pytest.LogCaptureFixture) -> None:
    """A run that starts anew begins an empty output; each earlier start keeps its own, with what it had resumed."""
    caplog.set_level(logging.INFO)
    attempts = (ATTEMPT, [[resumed(0, 1), *named("d")]], [[resumed(None), *named("e")]], [[resumed(None)]])
    batches = record(*attempts)
    for stop in stops:
        deliver(Names, tmp_path, batches[:stop])
    assert deliver(Names, tmp_path, batches)
    assert names_in(tmp_path) == ["run/resumed"]
    assert (tmp_path / "names.attempt-1.txt").read_text().split() == ["a", "run/marked", "run/resumed", "d"]
    assert (tmp_path / "names.attempt-2.txt").read_text().split() == ["run/resumed", "e"]
    assert len(list(tmp_path.glob("names*"))) == 3
    said = [record.getMessage() for record in caplog.records]
    assert said == [f"names: a new start follows; the output up to attempt {n} is kept aside" for n in (1, 2)]


def test_a_return_to_an_earlier_start_keeps_the_later_one_aside(tmp_path: Path) -> None:
    """A run resumed from a mark of an earlier start is read again, and the start that it leaves is kept aside."""
    attempts = (ATTEMPT, [[resumed(None), *named("d")], [*named("e")]], [[resumed(0, 1), *named("f")]])
    assert not deliver(Names, tmp_path, record(*attempts))
    assert names_in(tmp_path) == []
    assert (tmp_path / "names.attempt-0.txt").read_text().split() == ["a", "run/marked", "b", "c"]
    assert (tmp_path / "names.attempt-1.txt").read_text().split() == ["run/resumed", "d", "e"]


def test_an_output_that_is_empty_is_not_kept_aside(tmp_path: Path) -> None:
    """A file without any content is not renamed."""

    class Silent(Names):
        async def handle(self, events: Sequence[Event]) -> None:
            """Write nothing."""

    deliver(Silent, tmp_path, record(ATTEMPT, [[resumed(None)]]))
    assert [path.name for path in tmp_path.glob("names*")] == ["names.txt"]


def test_a_file_kept_aside_belongs_to_its_cursor(tmp_path: Path) -> None:
    """Without a cursor, an output that was kept aside is not overwritten either."""
    (tmp_path / "names.attempt-0.txt").write_text("mine")
    with pytest.raises(OutputError, match=r"exists in .* already, without a cursor"):
        deliver(Names, tmp_path, [])


def test_a_resumption_after_everything_delivered_removes_nothing(tmp_path: Path) -> None:
    """An output without superseded events is left as it is, even without a mark."""
    batches = record([named("a", "b")], [[resumed(0, 1), *named("c")]])
    assert deliver(Names, tmp_path, batches)
    assert names_in(tmp_path) == ["a", "b", "run/resumed", "c"]


def test_an_unknown_mark_empties_the_output(tmp_path: Path) -> None:
    """Without a savepoint at the mark, the output is emptied and the kept events are requested again."""
    batches = record([named("a"), named("b")], [[resumed(0, 0), *named("c")]])
    assert not deliver(Names, tmp_path, batches)
    assert names_in(tmp_path) == []
    assert CursorFile(tmp_path, "names", 0).load().point.cursor == Cursor(0, -1)  # type: ignore[union-attr]  # it is there


def test_only_the_last_marks_are_kept(tmp_path: Path) -> None:
    """The cursor file stays small: it holds the last eight marks."""
    deliver(Names, tmp_path, record([[*named(f"n{number}"), MARK] for number in range(20)]))
    commit = CursorFile(tmp_path, "names", 0).load()
    assert commit is not None
    assert [mark.cursor.seq for mark in commit.marks] == list(range(25, 41, 2))[-KEPT_MARKS:]


def test_a_mark_that_is_superseded_is_forgotten(tmp_path: Path) -> None:
    """Marks after the one that the run was resumed from are dropped."""
    attempt = [[*named("a"), MARK], [*named("b"), MARK]]
    deliver(Names, tmp_path, record(attempt, [[resumed(0, 1)], [*named("c"), MARK]]))
    commit = CursorFile(tmp_path, "names", 0).load()
    assert commit is not None
    assert [mark.cursor for mark in commit.marks] == [Cursor(0, 1), Cursor(1, 2)]


def test_an_output_of_another_run_is_refused(tmp_path: Path) -> None:
    """The error names both runs and says what to do; the output is unchanged."""
    deliver(Names, tmp_path, record(ATTEMPT, run="first"))
    with pytest.raises(OutputError, match=r"belongs to run first, not to run second.*--output"):
        deliver(Names, tmp_path, record([*ATTEMPT, named("d")], run="second"))
    assert names_in(tmp_path) == ["a", "run/marked", "b", "c"]


def test_a_file_that_no_sink_wrote_is_not_overwritten(tmp_path: Path) -> None:
    """A file in the place of the output, without a cursor beside it, is left unchanged."""
    (tmp_path / "names.txt").write_text("my thesis")
    with pytest.raises(OutputError, match="move it away"):
        deliver(Names, tmp_path, record(ATTEMPT))
    assert (tmp_path / "names.txt").read_text() == "my thesis"


@pytest.mark.parametrize("damage", ["shorter", "gone", "no cursor"])
def test_a_changed_output_is_rewritten_with_a_warning(
    tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    """An output that is too short or missing, or has a damaged cursor, is rewritten after one warning."""
    deliver(Names, tmp_path, record(ATTEMPT))
    if damage == "shorter":
        (tmp_path / "names.txt").write_text("a\n")
    elif damage == "gone":
        (tmp_path / "names.txt").unlink()
    else:
        (tmp_path / ".trainwire" / "names-rank0.cursor").write_text("{")
    with caplog.at_level(logging.WARNING, "trainwire"):
        deliver(Names, tmp_path, record(ATTEMPT))
    assert names_in(tmp_path) == ["a", "run/marked", "b", "c"]
    assert ["rewriting it" in record.message for record in caplog.records] == [True]


def test_a_batch_that_cannot_be_read_is_skipped(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A body that cannot be decoded is reported, and does not stop the sink."""
    first, last = record([named("a"), named("b")])
    header = Header("recorded", 0, 0, "event", 1, 1, {})
    deliver(Names, tmp_path, [first, Batch(header, b"", b"\xc1"), record([named("x", "y"), named("b")])[1]])
    assert names_in(tmp_path) == ["a", "b"]
    assert "seq 1" in caplog.text
    assert last.cursor == Cursor(0, 1)


def test_a_sink_gets_only_its_channels(tmp_path: Path) -> None:
    """Events that the runner reads for itself do not reach a sink of another channel."""

    class Pictures(Names):
        channels = frozenset({"media"})

    deliver(Pictures, tmp_path, record(ATTEMPT))
    assert names_in(tmp_path) == []
