"""A look at the beginning and at the end of an attempt's journal, however long it is between them."""

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
_TRIES: Final = 64
"""Markers that are tried as the beginning of a record: some bytes within one may look like it."""


@dataclass(frozen=True)
class Head:
    """How far one attempt has been recorded."""

    rank: int
    attempt: int
    head: int = -1
    """Seq of the last event."""
    heads: dict[str, int] = field(default_factory=dict)
    """For each channel the seq of its last event."""


def read_head(attempt: Attempt) -> Head:
    """How far an attempt has been recorded, by its last batch.

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
    """The first batch of an attempt that can be read; None if there is none yet.

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


def batches_backwards(attempt: Attempt, word: bytes = MARKER, limit: int | None = None) -> Iterator[Batch]:
    """The batches of an attempt with `word` in their bytes, the last one first, from about its last `limit` bytes.

    Damaged records are passed over. At most one segment is held in memory.

    Raises:
        OSError: the journal cannot be read.
        UnsupportedVersionError: a newer version wrote it.
    """
    looked_at = 0
    for path in reversed(list_segments(attempt.folder)):
        if limit is not None and looked_at >= limit:
            return
        looked_at += path.stat().st_size
        yield from _segment_backwards(path, word)


def events_of(batch: Batch) -> Sequence[Event]:
    """A batch's events; none if its body cannot be read, which is told by whoever reads the whole journal."""
    try:
        return batch.events
    except MalformedBatchError:
        return ()


def _segment_backwards(path: Path, word: bytes) -> Iterator[Batch]:
    data = path.read_bytes()
    end = len(data)
    while (place := data.rfind(word, 0, end)) >= 0:
        batch, begin, after = _record_around(data, place)
        # Where the word stands in bytes that are no record, the search goes on before them.
        end = begin if batch is None or after > place else after
        if batch is not None and after > place:
            yield batch


def _record_around(data: bytes, place: int) -> tuple[Batch | None, int, int]:
    """The last record that begins at `place` or before it, and where it begins and ends."""
    begin = place + len(MARKER)
    for _ in range(_TRIES):
        found = data.rfind(MARKER, 0, begin)
        if found < 0:
            return None, 0, 0
        # The next search may not find this one again, and may find one that overlaps it.
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
