"""The reports of whether a run was recorded completely."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st
from support.recorder import Recorder, scalar

from trainwire_protocol.events import Event
from trainwire_protocol.journal.run_folder import Attempt, Lease, begin_attempt
from trainwire_protocol.journal.segments import JournalWriter
from trainwire_protocol.journal.verification import AttemptReport, _subtract, verify_run
from trainwire_protocol.process import ProcessIdentity
from trainwire_protocol.wire import Batch, Cursor, Header, encode_batch


def record(folder: Path, batches: Sequence[Batch], *, released: bool = True) -> Attempt:
    """Write an attempt whose owner has ended: in order if `released`, else killed."""
    attempt = begin_attempt(folder, 0, "session")
    writer = JournalWriter(attempt.folder)
    for batch in batches:
        writer.append([batch])
    writer.close()
    gone = ProcessIdentity.of_this_process()._replace(started="long ago")
    attempt.write_lease(Lease(gone, "session", time.time(), released))
    return attempt


def verify(folder: Path) -> AttemptReport:
    (report,) = verify_run(folder)
    return report


def test_a_complete_run(tmp_path: Path) -> None:
    """The report counts the events, and nothing is missing."""
    recorder = Recorder()
    record(tmp_path, [recorder.scalars(5), recorder.scalars(2, "media"), recorder.happened("run/finished")])
    counts: list[int] = []
    (report,) = verify_run(tmp_path, counts.append)
    assert report == AttemptReport(
        0, 0, events=8, head=7, heads={"event": 7, "media": 6}, ending="run/finished", resumed_from=None
    )
    assert report.is_whole
    assert counts == [5, 2, 1]


def test_a_folder_without_a_run_has_no_reports(tmp_path: Path) -> None:
    """A folder that contains no run gives an empty list."""
    assert verify_run(tmp_path) == []


def test_a_live_attempt(tmp_path: Path) -> None:
    """An attempt whose owner is alive is live, and its missing end is not an error."""
    attempt = begin_attempt(tmp_path, 0, "session")
    writer = JournalWriter(attempt.folder)
    writer.append([Recorder().scalars(3)])
    writer.close()
    report = verify(tmp_path)
    assert report.is_live
    assert report.is_whole


def test_a_gap(tmp_path: Path) -> None:
    """A batch that is not in the journal is missing, with its first and last seq."""
    recorder = Recorder()
    batches = [recorder.scalars(5) for _ in range(4)]
    record(tmp_path, [batches[0], batches[2], recorder.happened("run/failed")])
    report = verify(tmp_path)
    assert report.missing == [(5, 9), (15, 19)]
    assert not report.is_whole


def test_a_lost_batch(tmp_path: Path) -> None:
    """A gap that `journal/missing` names is lost instead of missing; a part that it does not name is missing."""
    recorder = Recorder()
    batches = [recorder.scalars(5) for _ in range(3)]
    lost = recorder.happened("journal/missing", first_seq=5, last_seq=7)
    record(tmp_path, [batches[0], batches[2], lost, recorder.happened("run/finished")])
    report = verify(tmp_path)
    assert (report.lost, report.missing) == ([(5, 7)], [(8, 9)])
    assert not report.is_whole


def test_dropped_values(tmp_path: Path) -> None:
    """The counts of `events/dropped` are added up."""
    recorder = Recorder()
    dropped = [recorder.happened("events/dropped", count=count) for count in (3, 4, "many")]
    record(tmp_path, [*dropped, recorder.happened("run/finished")])
    report = verify(tmp_path)
    assert report.dropped == 7
    assert not report.is_whole


def test_malformed_events(tmp_path: Path) -> None:
    """Invalid events, and all events of a batch that cannot be decoded, are malformed."""
    recorder = Recorder()
    invalid = recorder.record([scalar(0), Event("", 1.0, "scalar", 1.0, 1)])
    whole = recorder.scalars(3)
    undecodable = Batch(whole.header, whole.header_bytes, b"\xc1")
    record(tmp_path, [invalid, undecodable, recorder.happened("run/finished")])
    report = verify(tmp_path)
    assert (report.events, report.malformed) == (2, 4)
    assert not report.is_whole


def test_an_unfinished_record(tmp_path: Path) -> None:
    """After a crash, an unfinished record at the end is torn, and the record is whole; elsewhere it is damage."""
    recorder = Recorder()
    attempt = record(tmp_path, [recorder.scalars(5), recorder.scalars(5)], released=False)
    (segment,) = attempt.folder.glob("*.journal")
    os.truncate(segment, segment.stat().st_size - 3)
    report = verify(tmp_path)
    assert (report.events, report.ending, report.damages) == (5, None, [])
    assert report.torn_bytes > 0
    assert report.is_whole
    with segment.open("ab") as file:
        file.write(bytes(100))
    report = verify(tmp_path)
    assert report.torn_bytes == 0
    assert len(report.damages) == 1
    assert str(segment) in report.damages[0]
    assert not report.is_whole


def test_a_released_attempt_without_an_end(tmp_path: Path) -> None:
    """If the owner released the attempt, its last event must be in the journal."""
    record(tmp_path, [Recorder().scalars(5)])
    report = verify(tmp_path)
    assert report.is_cut
    assert not report.is_whole


def test_a_resumed_run(tmp_path: Path) -> None:
    """What a later attempt superseded is reported with its first and last seq."""
    record(tmp_path, [Recorder().scalars(10)], released=False)
    second = Recorder(attempt=1)
    resumed = second.happened("run/resumed", **{"from": {"attempt": 0, "seq": 6}})
    record(tmp_path, [resumed, second.happened("run/finished")])
    first, last = verify_run(tmp_path)
    assert (first.superseded, last.superseded, last.resumed_from) == ((7, 9), None, Cursor(0, 6))
    assert first.is_whole
    assert last.is_whole


def test_a_missing_origin(tmp_path: Path) -> None:
    """Events that a later attempt resumed from are missing if the journal ends before them."""
    record(tmp_path, [Recorder().scalars(10)], released=False)
    second = Recorder(attempt=1)
    resumed = second.happened("run/resumed", **{"from": {"attempt": 0, "seq": 20}})
    record(tmp_path, [resumed, second.happened("run/finished")])
    first, _ = verify_run(tmp_path)
    assert first.missing == [(10, 20)]


def test_an_empty_batch_at_the_end_has_no_name(tmp_path: Path) -> None:
    """A last batch without events ends the attempt without a name."""
    header = Header("digits-1", 0, 0, "event", 0, 0, {}, last=True)
    record(tmp_path, [encode_batch(header, [])])
    assert verify(tmp_path).ending is None


ranges = st.lists(st.tuples(st.integers(0, 30), st.integers(0, 5)).map(lambda pair: (pair[0], sum(pair))), max_size=4)


@given(ranges, ranges)
def test_explained_parts_of_gaps_are_subtracted(gaps: list[tuple[int, int]], explained: list[tuple[int, int]]) -> None:
    """Exactly the numbers that are in a gap and in no explained range remain."""

    def numbers(pairs: Sequence[tuple[int, int]]) -> set[int]:
        return {number for first, last in pairs for number in range(first, last + 1)}

    assert numbers(list(_subtract(gaps, explained))) == numbers(gaps) - numbers(explained)
