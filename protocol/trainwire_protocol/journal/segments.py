"""The journal: what an attempt recorded, as append-only segments of records in its folder.

    <run>/journal/rank-<rank>/attempt-<attempt>/<first seq>.journal

One writer appends, any number of readers follow it, and no lock is needed: it works on network file systems.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from io import FileIO
from pathlib import Path
from typing import Final

from trainwire_protocol.journal.records import Damage, RecordScanner, encode_record
from trainwire_protocol.wire import Batch

SEGMENT_BYTES: Final = 8 << 20
"""A segment that has grown past this is followed by another; to find a place, at most one is gone through."""

READ_BYTES: Final = 1 << 20
"""How much a reader reads at once, unless it is told another size."""


class JournalWriter:
    """Appends batches to an attempt's journal; for one thread at a time."""

    def __init__(self, folder: Path, segment_bytes: int = SEGMENT_BYTES) -> None:
        self.folder = folder
        self.segment_bytes = segment_bytes
        self._descriptor: int | None = None
        self._size = 0

    def append(self, batches: Sequence[Batch]) -> None:
        """Write the batches behind all others, in one call of the system where it takes them whole.

        Raises:
            OSError: the disk is full or gone; what was written of the batches is taken back, so call it again.
        """
        descriptor = self._segment(batches[0])
        data = b"".join(map(encode_record, batches))
        try:
            _write_all(descriptor, data)
        except OSError:
            self._size = _take_back(descriptor, self._size)
            raise
        self._size += len(data)

    def close(self) -> None:
        """Close the segment; a later `append` opens another."""
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            os.close(descriptor)

    def _segment(self, first: Batch) -> int:
        if self._size > self.segment_bytes:
            self.close()
        if self._descriptor is None:
            path = self.folder / f"{first.header.seq:020d}.journal"
            self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
            self._size = os.fstat(self._descriptor).st_size
        return self._descriptor


def recover(folder: Path) -> Batch | None:
    """Cut off the beginning of a record that a killed writer has left at the end; the last whole record's batch.

    For whoever goes on writing in its folder.

    Raises:
        OSError: a segment cannot be read or cut.
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


def _write_all(descriptor: int, data: bytes) -> None:
    left = memoryview(data)
    while left:
        left = left[os.write(descriptor, left) :]


def _take_back(descriptor: int, size: int) -> int:
    """Cut a file to `size`; the size that it then has."""
    # A reader finds its way past a fragment that cannot be removed, and a later cut has to leave what comes after it.
    with contextlib.suppress(OSError):
        os.ftruncate(descriptor, size)
    return os.fstat(descriptor).st_size


@dataclass
class SegmentDamage(Damage):
    """Bytes of a segment in which no record could be read."""

    path: Path

    def __str__(self) -> str:
        return f"{self.path}: {self.length} bytes at {self.offset}: {self.reason}"


@dataclass
class JournalReader:
    """Follows an attempt's journal from behind `after`, in order, past damaged records."""

    folder: Path
    after: int = -1
    read_bytes: int = READ_BYTES
    ended: bool = False
    """Whether the attempt's last batch was read."""
    head: int = -1
    """Seq of the last event that was seen, wanted or not."""
    is_at_end: bool = False
    """Whether the last read has come to where the journal ended then."""
    damages: list[SegmentDamage] = field(default_factory=list)
    _segment: Path | None = None
    _file: FileIO | None = None
    _scanner: RecordScanner = field(default_factory=RecordScanner)
    _read_twice: int = -1

    def read(self, *, final: bool = False) -> list[Batch]:
        """The next batches, at most about `read_bytes` of them; an empty list says that there are no more yet.

        `final` says that the attempt is over: what is then cut off at the end is damage, and not awaited.

        Raises:
            OSError: a segment cannot be read.
            UnsupportedVersionError: a newer version wrote it.
        """
        while self._file is not None or self._open_next():
            # Listed before the read: what was read then is all that the segment will ever hold if another follows.
            over = final or self._following() is not None
            batches = self._read_chunk(over)
            if batches is None:
                if not over or not self._open_next():
                    break
            elif batches:
                return batches
        return []

    def close(self) -> None:
        """Close the file that it reads."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _read_chunk(self, over: bool) -> list[Batch] | None:
        """The wanted batches of the next chunk, or None if the segment has no more."""
        assert self._file is not None
        begin = self._scanner.offset
        if os.fstat(self._file.fileno()).st_size < self._file.tell():
            self._rewind(begin)
        data = self._file.read(self.read_bytes)
        self.is_at_end = len(data) < self.read_bytes and not over
        self._scanner.feed(data)
        found = self._scanner.records(final=over and not data)
        if self._scanner.damages and self._scanner.damages[0].offset != self._read_twice:
            self._read_twice = self._scanner.damages[0].offset
            self._rewind(min(begin, self._read_twice))
            return []
        self._note_damages()
        self.ended = self.ended or any(batch.header.last for batch in found)
        self.head = max([self.head, *(batch.cursor.seq for batch in found)])
        wanted = [batch for batch in found if batch.cursor.seq > self.after]
        self.after = max([self.after, *(batch.cursor.seq for batch in wanted)])
        return wanted if data or wanted else None

    def _rewind(self, offset: int) -> None:
        """Read again from `offset`: the writer may have taken back what was read, and written something else."""
        assert self._file is not None
        self._file.seek(offset)
        self._scanner = RecordScanner(offset)

    def _note_damages(self) -> None:
        assert self._segment is not None
        for damage in self._scanner.damages:
            self.damages.append(SegmentDamage(damage.offset, damage.length, damage.reason, self._segment))
        self._scanner.damages.clear()

    def _open_next(self) -> bool:
        segment = self._following()
        if segment is None:
            return False
        self.close()
        self._segment, self._file, self._scanner = segment, FileIO(segment), RecordScanner()
        self._read_twice = -1
        return True

    def _following(self) -> Path | None:
        """The segment to read after the present one."""
        present = self._segment.name if self._segment else ""
        segments = [path for path in list_segments(self.folder) if path.name > present]
        begun = [path for path in segments if _first_seq(path) <= self.after + 1]
        return begun[-1] if begun else next(iter(segments), None)


def list_segments(folder: Path) -> list[Path]:
    """The segments of an attempt's journal, in their order; what else lies in its folder is none."""
    return sorted(path for path in folder.glob("*.journal") if len(path.stem) == 20 and path.stem.isdecimal())


def _first_seq(segment: Path) -> int:
    return int(segment.stem)
