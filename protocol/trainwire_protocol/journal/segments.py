"""The journal: what an attempt recorded, as append-only segments of records in its folder.

    <run>/journal/rank-<rank>/attempt-<attempt>/<first seq>.journal

One writer appends, and any number of readers follow it. There are no locks, so that it works on network file systems.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from io import FileIO
from pathlib import Path
from typing import Final

from trainwire_protocol.journal.records import Damage, RecordScanner, encode_record
from trainwire_protocol.wire import Batch

SEGMENT_BYTES: Final = 8 << 20
"""Size after which a new segment is started. To find a position, at most one segment is read."""

READ_BYTES: Final = 1 << 20
"""Default size of a read, in bytes."""


def list_segments(folder: Path) -> list[Path]:
    """Return the segments of an attempt's journal, in order. Other files in the folder are ignored."""
    return sorted(path for path in folder.glob("*.journal") if len(path.stem) == 20 and path.stem.isdecimal())


class JournalWriter:
    """Appends batches to an attempt's journal. Not thread-safe.

    Args:
        folder: the attempt's folder.
        segment_bytes: size after which a new segment is started.
    """

    def __init__(self, folder: Path, segment_bytes: int = SEGMENT_BYTES) -> None:
        self.folder = folder
        self.segment_bytes = segment_bytes
        self._descriptor: int | None = None
        self._size = self._first_seq = 0

    def append(self, batches: Sequence[Batch]) -> None:
        """Append at least one batch, in one system call unless the system accepts only part of the data.

        Raises:
            OSError: the disk is full or unavailable. None of the batches is in the journal: call this again.
        """
        descriptor = self._open_segment(batches[0])
        data = b"".join(map(encode_record, batches))
        rest = memoryview(data)
        try:
            while rest:
                rest = rest[os.write(descriptor, rest) :]
        except OSError:
            # If the fragment cannot be removed, readers skip it, and a later removal must not remove what follows it.
            with contextlib.suppress(OSError):
                os.ftruncate(descriptor, self._size)
            self._size = os.fstat(descriptor).st_size
            raise
        self._size += len(data)

    @property
    def deleted_from(self) -> int | None:
        """Seq of the first event of the current segment if its file was deleted; what is appended to it is lost.

        Raises:
            OSError: the disk does not tell.
        """
        try:
            if self._descriptor is None or os.fstat(self._descriptor).st_nlink:
                return None
        except OSError as error:
            if error.errno != errno.ESTALE:  # on NFS: another host has deleted the file
                raise
        return self._first_seq

    def close(self) -> None:
        """Close the segment. A later `append` opens another."""
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            os.close(descriptor)

    def _open_segment(self, first: Batch) -> int:
        """Return the descriptor of the current segment, or of a new one that begins with `first`."""
        if self._size > self.segment_bytes:
            self.close()
        if self._descriptor is None:
            self._first_seq = first.header.seq
            path = self.folder / f"{self._first_seq:020d}.journal"
            self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
            self._size = os.fstat(self._descriptor).st_size
        return self._descriptor


def recover(folder: Path) -> Batch | None:
    """Remove an unfinished record that a killed writer left at the end, and return the last batch, if there is one.

    Call this only in the process that continues to write this journal.

    Raises:
        OSError: a segment cannot be read or truncated.
    """
    for segment in reversed(list_segments(folder)):
        scanner, last = RecordScanner(), None
        with segment.open("rb") as file:
            while data := file.read(READ_BYTES):
                scanner.feed(data)
                last = next(reversed(scanner.records()), last)
        if scanner.unread:
            os.truncate(segment, scanner.offset)
        if last:
            return last
    return None


@dataclass
class SegmentDamage(Damage):
    """Bytes of a segment that contain no readable record."""

    path: Path

    def __str__(self) -> str:
        return f"{self.path}: {self.length} bytes at {self.offset}: {self.reason}"


@dataclass
class JournalReader:
    """Reads the batches of an attempt that end after seq `after`, in order, while the journal grows.

    Damaged records are skipped and listed in `damages`.
    """

    folder: Path
    after: int = -1
    """Seq of the last event that was returned."""
    read_bytes: int = READ_BYTES
    ended: bool = False
    """Whether the attempt's last batch was read."""
    head: int = -1
    """Seq of the last event that was read, returned or not."""
    is_at_end: bool = False
    """Whether the last read reached the end of the journal at that time."""
    damages: list[SegmentDamage] = field(default_factory=list)
    _segment: Path | None = None
    _file: FileIO | None = None
    _scanner: RecordScanner = field(default_factory=RecordScanner)
    _read_twice: int = -1
    """Offset of damage that was read again before it is reported, because the writer may have replaced the bytes."""

    def read(self, *, final: bool = False) -> list[Batch]:
        """Return the next batches, about `read_bytes` of them, or an empty list if there are no more yet.

        With `final`, the attempt is over: an unfinished record at the end is damage, and not waited for.

        Raises:
            OSError: a segment cannot be read.
            UnsupportedVersionError: a newer version wrote it.
        """
        while self._file is not None or self._open_next():
            # Listed before the read: if a segment follows now, this one has its final size.
            over = final or self._following() is not None
            batches = self._read_chunk(over)
            if batches is None:
                if not over or not self._open_next():
                    break
            elif batches:
                return batches
        return []

    def read_all(self, *, final: bool = False) -> Iterator[Batch]:
        """Yield the batches of `read` until it returns none."""
        while batches := self.read(final=final):
            yield from batches

    def close(self) -> None:
        """Close the segment that is being read."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _read_chunk(self, over: bool) -> list[Batch] | None:
        """Return the batches after `after` in the next chunk, or None if the segment has no more."""
        assert self._file is not None
        assert self._segment is not None
        begin = self._scanner.offset
        if os.fstat(self._file.fileno()).st_size < self._file.tell():
            self._rewind(begin)
        data = self._file.read(self.read_bytes)
        self.is_at_end = len(data) < self.read_bytes and not over
        self._scanner.feed(data)
        found = self._scanner.records(final=over and not data)
        damages = self._scanner.damages
        if damages and damages[0].offset != self._read_twice:
            self._read_twice = damages[0].offset
            self._rewind(min(begin, self._read_twice))
            return []
        self.damages += [SegmentDamage(each.offset, each.length, each.reason, self._segment) for each in damages]
        damages.clear()
        self.ended = self.ended or any(batch.header.last for batch in found)
        self.head = max([self.head, *(batch.cursor.seq for batch in found)])
        following = [batch for batch in found if batch.cursor.seq > self.after]
        self.after = max([self.after, *(batch.cursor.seq for batch in following)])
        return following if data or following else None

    def _rewind(self, offset: int) -> None:
        """Read again from `offset`: after a failed write the writer removes the fragment and writes other bytes."""
        assert self._file is not None
        self._file.seek(offset)
        self._scanner = RecordScanner(offset)

    def _open_next(self) -> bool:
        segment = self._following()
        if segment is None:
            return False
        self.close()
        self._segment, self._file, self._scanner = segment, FileIO(segment), RecordScanner()
        self._read_twice = -1
        return True

    def _following(self) -> Path | None:
        """Return the segment to read after the current one: the last that may contain the event after `after`."""
        current = self._segment.name if self._segment else ""
        segments = [path for path in list_segments(self.folder) if path.name > current]
        earlier = [path for path in segments if int(path.stem) <= self.after + 1]
        return earlier[-1] if earlier else next(iter(segments), None)
