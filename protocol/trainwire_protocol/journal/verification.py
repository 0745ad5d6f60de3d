"""Proves that a run's record is whole, or says exactly what it lacks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

from trainwire_protocol.errors import MalformedBatchError
from trainwire_protocol.events import Event
from trainwire_protocol.journal.attempts import kept_ranges, resumed_from
from trainwire_protocol.journal.run_folder import Attempt, list_attempts, list_ranks
from trainwire_protocol.journal.segments import JournalReader, SegmentDamage, list_segments
from trainwire_protocol.wire import Batch, Cursor


@dataclass
class AttemptReport:
    """What the journal of one attempt holds, and what it does not."""

    rank: int
    attempt: int
    events: int = 0
    malformed: int = 0
    """Events that cannot be read."""
    head: int = -1
    """Seq of the last event."""
    heads: dict[str, int] = field(default_factory=dict)
    """For each channel the seq of its last event."""
    ending: str | None = None
    """Name of the last event, if the attempt ended by itself."""
    is_live: bool = False
    """Whether a trainer may still be recording it."""
    is_cut: bool = False
    """Whether its owner has ended it in order, and yet its last event is not there."""
    missing: list[tuple[int, int]] = field(default_factory=list)
    """First and last seq of what should be there, and that no event accounts for."""
    lost: list[tuple[int, int]] = field(default_factory=list)
    """First and last seq of what a disk did not take, as `journal/missing` tells."""
    dropped: int = 0
    """Values that were dropped before they got a seq, as `events/dropped` tells."""
    damages: list[str] = field(default_factory=list)
    """Bytes that are no record, each with its place."""
    torn_bytes: int = 0
    """Bytes of a record that was cut off when the process died."""
    superseded: tuple[int, int] | None = None
    """First and last seq of what a later attempt has superseded."""
    resumed_from: Cursor | None = None

    @property
    def is_whole(self) -> bool:
        """Whether nothing is missing, lost, dropped or damaged; a torn end of a process that died is none of these."""
        return not (
            self.missing or self.lost or self.dropped or self.damages or self.malformed or self.is_cut
        )  # fmt: skip


Tell: TypeAlias = Callable[[int], None]


def _tell_nobody(_: int) -> None:
    return


def verify_run(run_folder: Path, tell: Tell = _tell_nobody) -> list[AttemptReport]:
    """A report for each attempt of each rank in a run's folder; none if it holds no run.

    `tell` is called now and then with the number of events that were read since it was last called.

    Raises:
        OSError: a journal cannot be read.
        UnsupportedVersionError: a newer version wrote it.
    """
    return [report for rank in list_ranks(run_folder) for report in _verify_rank(run_folder, rank, tell)]


def _verify_rank(run_folder: Path, rank: int, tell: Tell) -> list[AttemptReport]:
    reports = [_verify_attempt(attempt, tell) for attempt in list_attempts(run_folder, rank)]
    _note_cut_origins(reports)
    kept = kept_ranges({report.attempt: report.resumed_from for report in reports})
    for report in reports:
        last_kept = kept.get(report.attempt, -1)
        if last_kept is not None and last_kept < report.head:
            report.superseded = (last_kept + 1, report.head)
    return reports


def _note_cut_origins(reports: list[AttemptReport]) -> None:
    """What an attempt has resumed from was there once."""
    by_number = {report.attempt: report for report in reports}
    for origin in (report.resumed_from for report in reports if report.resumed_from):
        resumed = by_number.get(origin.attempt)
        if resumed and resumed.head < origin.seq:
            resumed.missing.append((resumed.head + 1, origin.seq))


def _verify_attempt(attempt: Attempt, tell: Tell) -> AttemptReport:
    report = AttemptReport(attempt.rank, attempt.number, is_live=attempt.is_held() and not attempt.is_superseded())
    reader = JournalReader(attempt.folder)
    try:
        for batch in _batches(reader, final=not report.is_live):
            _note_batch(report, batch)
            tell(batch.header.count)
    finally:
        reader.close()
    _note_damages(report, attempt, reader.damages)
    report.missing = list(_subtract(report.missing, report.lost))
    lease = attempt.read_lease()
    report.is_cut = lease is not None and lease.released and report.ending is None
    return report


def _batches(reader: JournalReader, *, final: bool) -> Iterator[Batch]:
    while batches := reader.read(final=final):
        yield from batches


def _note_batch(report: AttemptReport, batch: Batch) -> None:
    if batch.header.seq > report.head + 1:
        report.missing.append((report.head + 1, batch.header.seq - 1))
    report.head = report.heads[batch.header.channel] = batch.cursor.seq
    try:
        events, malformed = batch.events, batch.malformed
    except MalformedBatchError:
        events, malformed = (), batch.header.count
    report.events += len(events)
    report.malformed += malformed
    # Scalars come by the million, and lifecycle events never in a batch without their word in it.
    if b"lifecycle" in batch.body:
        for event in events:
            _note_lifecycle(report, event)
    if batch.header.last and events:
        report.ending = events[-1].name


def _note_lifecycle(report: AttemptReport, event: Event) -> None:
    if event.type != "lifecycle":
        return
    report.resumed_from = report.resumed_from or resumed_from(event)
    if event.name == "journal/missing":
        first, last = event.value.get("first_seq"), event.value.get("last_seq")
        if isinstance(first, int) and isinstance(last, int):
            report.lost.append((first, last))
    elif event.name == "events/dropped" and isinstance(event.value.get("count"), int):
        report.dropped += event.value["count"]


def _note_damages(report: AttemptReport, attempt: Attempt, damages: list[SegmentDamage]) -> None:
    segments = list_segments(attempt.folder)
    for damage in damages:
        if damage.is_torn and damage.path == segments[-1] and report.ending is None:
            report.torn_bytes += damage.length
        else:
            report.damages.append(str(damage))


def _subtract(ranges: list[tuple[int, int]], explained: list[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """What of `ranges` is in none of `explained`."""
    for first, last in ranges:
        for known_first, known_last in sorted(explained):
            if known_first <= first <= known_last:
                first = known_last + 1
            elif first < known_first <= last:
                yield first, known_first - 1
                first = known_last + 1
        if first <= last:
            yield first, last
