"""The first and the last batches of an attempt's journal, found without reading those in between."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from trainwire_protocol.errors import MalformedBatchError, ProtocolError, UnsupportedVersionError
from trainwire_protocol.events import Event
from trainwire_protocol.journal.records import MARKER, RecordScanner, decode_record
from trainwire_protocol.journal.run_folder import Attempt
from trainwire_protocol.journal.segments import list_segments
from trainwire_protocol.wire import Batch

_CHUNK_BYTES: Final = 64 << 10

_MAX_TRIES: Final = 64
"""How many markers are tried as the beginning of a record, as the contents of records may contain markers too."""


@dataclass(frozen=True)
class Head:
    """The last recorded positions of one attempt."""

    rank: int
    attempt: int
    head: int = -1
    """Seq of the last event."""
    heads: dict[str, int] = field(default_factory=dict)
    """For each channel, the seq of its last event."""


def read_head(attempt: Attempt) -> Head:
    """Return the last recorded positions of an attempt, according to its last batch.

    Raises:
        OSError: the journal cannot be read.
        UnsupportedVersionError: a newer version wrote it.
    """
    last = next(batches_backwards(attempt), None)
    if last is None:
        return Head(attempt.rank, attempt.number)
    heads = {**last.header.before, last.header.channel: last.cursor.seq}
    return Head(attempt.rank, attempt.number, last.cursor.seq, heads)


def read_first(attempt: Attempt) -> Batch | None:
    """Return the first readable batch of an attempt, or None if there is none yet.

    Raises:
        OSError: the journal cannot be read.
        UnsupportedVersionError: a newer version wrote it.
    """
    for path in list_segments(attempt.folder):
        scanner = RecordScanner()
        with path.open("rb") as file:
            while data := file.read(_CHUNK_BYTES):
                scanner.feed(data)
                if batches := scanner.records():
                    return batches[0]
    return None


def batches_backwards(attempt: Attempt, content: bytes = MARKER, limit: int | None = None) -> Iterator[Batch]:
    """Yield the batches of an attempt whose records contain certain bytes, the last batch first.

    Damaged records are skipped. At most one segment is held in memory.

    Args:
        attempt: the attempt.
        content: bytes that a record must contain; the default is in every record.
        limit: stop after the segment in which this many bytes from the end are reached.

    Raises:
        OSError: the journal cannot be read.
        UnsupportedVersionError: a newer version wrote it.
    """
    searched = 0
    for path in reversed(list_segments(attempt.folder)):
        if limit is not None and searched >= limit:
            return
        searched += path.stat().st_size
        yield from _segment_backwards(path, content)


def events_of(batch: Batch) -> Sequence[Event]:
    """Return a batch's events, or none if its body is malformed: a reader of the whole journal reports that."""
    try:
        return batch.events
    except MalformedBatchError:
        return ()


def ending_in(batch: Batch | None) -> Event | None:
    """Return the event with which an attempt ends if this, its last batch, contains it."""
    events = events_of(batch) if batch and batch.header.last else ()
    return events[-1] if events else None


def _segment_backwards(path: Path, content: bytes) -> Iterator[Batch]:
    data = path.read_bytes()
    end = len(data)
    while (place := data.rfind(content, 0, end)) >= 0:
        batch, begin, after = _record_around(data, place)
        if batch is not None and after > place:
            yield batch
            end = begin
        else:
            # The bytes found are outside any record: continue before them.
            end = begin if batch is None else after


def _record_around(data: bytes, place: int) -> tuple[Batch | None, int, int]:
    """Return the last record that begins at or before `place`, with its beginning and end."""
    begin = place + len(MARKER)
    for _ in range(_MAX_TRIES):
        found = data.rfind(MARKER, 0, begin)
        if found < 0:
            return None, 0, 0
        # The next search must not find this marker again, but may find one that overlaps it.
        begin = found + len(MARKER) - 1
        try:
            record = decode_record(data, found)
        except UnsupportedVersionError:
            raise
        except ProtocolError:
            continue
        if record is not None:
            return record[0], found, record[1]
    return None, begin - len(MARKER) + 1, 0
