"""Verification: checks that a run was recorded completely, and reports exactly what is missing."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

from trainwire_protocol.errors import MalformedBatchError
from trainwire_protocol.events import Event
from trainwire_protocol.journal.attempts import kept_ranges, resumed_from
from trainwire_protocol.journal.run_folder import Attempt, list_attempts, list_ranks
from trainwire_protocol.journal.segments import JournalReader, SegmentDamage, list_segments
from trainwire_protocol.wire import Batch, Cursor


@dataclass
class AttemptReport:
    """What the journal of one attempt contains, and what it lacks."""

    rank: int
    attempt: int
    events: int = 0
    malformed: int = 0
    """Number of events that cannot be decoded."""
    head: int = -1
    """Seq of the last event."""
    heads: dict[str, int] = field(default_factory=dict)
    """For each channel, the seq of its last event."""
    ending: str | None = None
    """Name of the last event, if it ends the attempt."""
    is_live: bool = False
    """Whether a trainer may still be recording it."""
    is_cut: bool = False
    """Whether the last event is missing although the owner released the attempt."""
    missing: list[tuple[int, int]] = field(default_factory=list)
    """First and last seq of each gap that no event explains."""
    lost: list[tuple[int, int]] = field(default_factory=list)
    """First and last seq of what could not be written, from `journal/missing` events."""
    dropped: int = 0
    """Number of values that were dropped before they got a seq, from `events/dropped` events."""
    damages: list[str] = field(default_factory=list)
    """Ranges of bytes that contain no readable record, each with its location."""
    torn_bytes: int = 0
    """Size of an unfinished record that a process left when it died."""
    superseded: tuple[int, int] | None = None
    """First and last seq of what a later attempt superseded."""
    resumed_from: Cursor | None = None

    @property
    def is_whole(self) -> bool:
        """Whether nothing is missing, lost, dropped or damaged, not counting an unfinished record of a dead process."""
        return not (
            self.missing or self.lost or self.dropped or self.damages or self.malformed or self.is_cut
        )  # fmt: skip


def verify_run(run_folder: Path, on_progress: Callable[[int], None] = lambda _: None) -> list[AttemptReport]:
    """Return a report for each attempt of each rank in a run's folder; an empty list if it contains no run.

    Args:
        run_folder: the folder.
        on_progress: called after each batch with the number of its events.

    Raises:
        OSError: a journal cannot be read.
        UnsupportedVersionError: a newer version wrote it.
    """
    reports: list[AttemptReport] = []
    for rank in list_ranks(run_folder):
        of_rank = [_verify_attempt(attempt, on_progress) for attempt in list_attempts(run_folder, rank)]
        _add_missing_origins(of_rank)
        _add_superseded(of_rank)
        reports += of_rank
    return reports


def _add_missing_origins(reports: Sequence[AttemptReport]) -> None:
    """Report as missing the events up to a position that a later attempt resumed from, if the journal lacks them."""
    by_number = {report.attempt: report for report in reports}
    for origin in (report.resumed_from for report in reports if report.resumed_from):
        resumed = by_number.get(origin.attempt)
        if resumed and resumed.head < origin.seq:
            resumed.missing.append((resumed.head + 1, origin.seq))


def _add_superseded(reports: Sequence[AttemptReport]) -> None:
    kept = kept_ranges({report.attempt: report.resumed_from for report in reports})
    for report in reports:
        last_kept = kept.get(report.attempt, -1)
        if last_kept is not None and last_kept < report.head:
            report.superseded = (last_kept + 1, report.head)


def _verify_attempt(attempt: Attempt, on_progress: Callable[[int], None]) -> AttemptReport:
    report = AttemptReport(attempt.rank, attempt.number, is_live=attempt.is_held() and not attempt.is_superseded())
    with closing(JournalReader(attempt.folder)) as reader:
        for batch in reader.read_all(final=not report.is_live):
            _add_batch(report, batch)
            on_progress(batch.header.count)
    _add_damages(report, list_segments(attempt.folder), reader.damages)
    report.missing = list(_subtract(report.missing, report.lost))
    lease = attempt.read_lease()
    report.is_cut = lease is not None and lease.released and report.ending is None
    return report


def _add_batch(report: AttemptReport, batch: Batch) -> None:
    if batch.header.seq > report.head + 1:
        report.missing.append((report.head + 1, batch.header.seq - 1))
    report.head = report.heads[batch.header.channel] = batch.cursor.seq
    try:
        events, malformed = batch.events, batch.malformed
    except MalformedBatchError:
        events, malformed = (), batch.header.count
    report.events += len(events)
    report.malformed += malformed
    # A run has millions of scalars and few lifecycle events; the bytes show which batches contain one.
    if b"lifecycle" in batch.body:
        for event in events:
            if event.type == "lifecycle":
                _add_lifecycle_event(report, event)
    if batch.header.last and events:
        report.ending = events[-1].name


def _add_lifecycle_event(report: AttemptReport, event: Event) -> None:
    report.resumed_from = report.resumed_from or resumed_from(event)
    if event.name == "journal/missing":
        first, last = event.value.get("first_seq"), event.value.get("last_seq")
        if isinstance(first, int) and isinstance(last, int):
            report.lost.append((first, last))
    elif event.name == "events/dropped" and isinstance(event.value.get("count"), int):
        report.dropped += event.value["count"]


def _add_damages(report: AttemptReport, segments: Sequence[Path], damages: Sequence[SegmentDamage]) -> None:
    for damage in damages:
        if damage.is_torn and damage.path == segments[-1] and report.ending is None:
            report.torn_bytes += damage.length
        else:
            report.damages.append(str(damage))


def _subtract(gaps: Sequence[tuple[int, int]], explained: Sequence[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """Yield the parts of the gaps that are in no explained range."""
    for first, last in gaps:
        for known_first, known_last in sorted(explained):
            if known_first <= first <= known_last:
                first = known_last + 1
            elif first < known_first <= last:
                yield first, known_first - 1
                first = known_last + 1
        if first <= last:
            yield first, last
