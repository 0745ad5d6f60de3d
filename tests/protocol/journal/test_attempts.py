"""Which events of a run are kept after it was resumed."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.recorder import Recorder, scalar

from trainwire_protocol.events import Event
from trainwire_protocol.journal.attempts import (
    MARK,
    NOTHING,
    find_mark,
    kept_ranges,
    parse_position,
    read_resumed_from,
    resumed_from,
)
from trainwire_protocol.journal.run_folder import Attempt
from trainwire_protocol.journal.segments import JournalWriter
from trainwire_protocol.wire import Batch, Cursor, encode_batch


def an_attempt(folder: Path, *batches: Batch) -> Attempt:
    writer = JournalWriter(folder)
    for batch in batches:
        writer.append([batch])
    writer.close()
    return Attempt("digits-1", 0, 1, folder)


@pytest.mark.parametrize(
    ("resumed", "kept"),
    [
        ({}, {}),
        ({0: None}, {0: None}),
        ({0: None, 1: Cursor(0, 50)}, {0: 50, 1: None}),
        ({0: None, 1: NOTHING}, {1: None}),
        ({0: None, 1: Cursor(0, -1)}, {0: -1, 1: None}),
        ({0: None, 1: Cursor(0, 50), 2: Cursor(1, 30)}, {0: 50, 1: 30, 2: None}),
        ({0: None, 1: Cursor(0, 50), 2: Cursor(0, 20)}, {0: 20, 2: None}),
        ({0: None, 1: Cursor(0, 50), 2: NOTHING, 3: Cursor(2, 7)}, {2: 7, 3: None}),
        ({0: None, 1: None}, {0: None, 1: None}),
        ({0: None, 1: Cursor(0, 50), 2: None}, {0: 50, 1: None, 2: None}),
        ({0: None, 1: None, 2: Cursor(1, 30)}, {0: None, 1: 30, 2: None}),
        ({0: None, 1: None, 2: Cursor(0, 5), 3: None}, {0: 5, 2: None, 3: None}),
    ],
)
def test_kept_ranges(resumed: dict[int, Cursor | None], kept: dict[int, int | None]) -> None:
    """An attempt is kept up to where the next one that is kept resumed; one without a position supersedes nothing."""
    assert kept_ranges(resumed) == kept


@pytest.mark.parametrize(
    ("value", "position"),
    [
        ({"from": {"attempt": 0, "seq": 7}}, Cursor(0, 7)),
        ({"from": None}, NOTHING),
        ({}, NOTHING),
        ({"from": {"attempt": "0", "seq": 7}}, NOTHING),
        ({"from": 7}, NOTHING),
    ],
)
def test_resumed_from(value: dict[str, object], position: Cursor) -> None:
    """The position is that of `run/resumed`, or `NOTHING` if it has no valid one."""
    assert resumed_from(Event("run/resumed", value, "lifecycle", 1.0, 0)) == position


@pytest.mark.parametrize("event", [scalar(1), Event("run/resumed", "text", "text", 1.0, 0)])
def test_other_events_resume_nothing(event: Event) -> None:
    """Only a lifecycle event called `run/resumed` has a position."""
    assert resumed_from(event) is None


@pytest.mark.parametrize("position", [None, 1, [0, 1], {"attempt": -1, "seq": 0}, {"attempt": 0}, {"attempt": True}])
def test_an_invalid_position(position: object) -> None:
    """Anything but a map of two integers is not a position."""
    assert parse_position(position) is None


def test_an_attempts_position_is_read_from_its_first_event(tmp_path: Path) -> None:
    """Only the first event of an attempt gives its position."""
    recorder = Recorder(attempt=1)
    resumed = recorder.happened("run/resumed", **{"from": {"attempt": 0, "seq": 9}})
    assert read_resumed_from(an_attempt(tmp_path / "missing")) is None
    (tmp_path / "a").mkdir()
    assert read_resumed_from(an_attempt(tmp_path / "a", resumed, recorder.scalars())) == Cursor(0, 9)
    (tmp_path / "b").mkdir()
    assert read_resumed_from(an_attempt(tmp_path / "b", Recorder().scalars(), resumed)) is None


def test_an_attempt_with_a_malformed_first_batch_has_no_position(tmp_path: Path) -> None:
    """A first batch that cannot be decoded gives no position."""
    whole = Recorder().scalars()
    broken = Batch(whole.header, whole.header_bytes, b"\xc1")
    assert read_resumed_from(an_attempt(tmp_path, broken)) is None


def test_the_position_of_a_mark_is_the_end_of_its_batch(tmp_path: Path) -> None:
    """The search for a mark skips malformed batches."""
    recorder = Recorder(attempt=1)
    batches = [recorder.scalars(3), recorder.happened(MARK, mark=1)]
    broken = recorder.happened(MARK, mark=2)
    batches.append(Batch(broken.header, broken.header_bytes, MARK.encode()))
    header = recorder.record([scalar(1), Event(MARK, {"mark": 3}, "lifecycle", 1.0, 0)])
    attempt = an_attempt(tmp_path, *batches, header, recorder.scalars())
    assert find_mark(attempt, 1) == Cursor(1, 3)
    assert find_mark(attempt, 3) == Cursor(1, 6)


def test_the_position_of_a_missing_mark_is_the_end_of_the_attempt(tmp_path: Path) -> None:
    """If a mark is not in the journal, its position is the end of the journal."""
    recorder = Recorder(attempt=1)
    attempt = an_attempt(tmp_path, recorder.scalars(5))
    assert find_mark(attempt, 1) == Cursor(1, 4)
    empty = encode_batch(recorder.scalars().header, [])
    assert empty.cursor == Cursor(1, 5)
