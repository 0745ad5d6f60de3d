"""The journal: writing and reading segments, with full disks, unfinished records and damage."""

from __future__ import annotations

import errno
import os
import resource
import threading
from collections.abc import Sequence
from pathlib import Path

import pytest
from support.disks import small_disk
from support.recorder import Recorder, frames

from trainwire_protocol.journal import segments
from trainwire_protocol.journal.records import encode_record
from trainwire_protocol.journal.segments import JournalReader, JournalWriter
from trainwire_protocol.wire import Batch


def write(folder: Path, batches: Sequence[Batch], segment_bytes: int = segments.SEGMENT_BYTES) -> None:
    writer = JournalWriter(folder, segment_bytes)
    for batch in batches:
        writer.append([batch])
    writer.close()


def read(reader: JournalReader, *, final: bool = True) -> list[Batch]:
    return list(reader.read_all(final=final))


def read_all(folder: Path, after: int = -1, read_bytes: int = segments.READ_BYTES) -> list[Batch]:
    reader = JournalReader(folder, after, read_bytes)
    found = read(reader)
    reader.close()
    return found


def segment_paths(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.journal"))


@pytest.fixture
def recorded(tmp_path: Path) -> list[Batch]:
    """Ten batches of three events, in a journal of several segments."""
    recorder = Recorder()
    batches = [recorder.scalars(3, "media" if number % 3 == 2 else "event") for number in range(10)]
    write(tmp_path, batches, segment_bytes=400)
    assert len(segment_paths(tmp_path)) > 2
    return batches


def test_appended_batches_are_read(tmp_path: Path, recorded: list[Batch]) -> None:
    """The batches of all segments are read, in order and byte for byte."""
    assert frames(read_all(tmp_path)) == frames(recorded)


def test_reading_begins_after_any_event(tmp_path: Path, recorded: list[Batch]) -> None:
    """The batches that end after the given event are read."""
    for after in range(-1, 32):
        assert frames(read_all(tmp_path, after)) == frames([b for b in recorded if b.cursor.seq > after])


def test_segments_are_named_by_their_first_event(tmp_path: Path, recorded: list[Batch]) -> None:
    """A segment is named by the seq of its first event, so that the names are in order."""
    for segment in segment_paths(tmp_path):
        data = segment.read_bytes()
        first = next(batch for batch in recorded if data.startswith(encode_record(batch)))
        assert segment.name == f"{first.header.seq:020d}.journal"


def test_only_the_segments_after_a_position_are_opened(tmp_path: Path, recorded: list[Batch]) -> None:
    """Segments that end before the position are not opened, even if the position is changed while reading."""
    segment_paths(tmp_path)[1].write_bytes(b"not a journal")
    reader = JournalReader(tmp_path)
    reader.read()
    reader.after = 26
    assert frames(read(reader)) == frames(recorded[9:])
    assert not reader.damages
    reader.close()
    assert frames(read_all(tmp_path, 26)) == frames(recorded[9:])


def test_a_missing_journal_is_empty(tmp_path: Path) -> None:
    """A folder that is empty or missing gives no batches and no error."""
    assert read_all(tmp_path) == []
    assert read_all(tmp_path / "missing") == []


def test_the_end_of_an_attempt_is_seen_from_any_position(tmp_path: Path) -> None:
    """`ended` is true after the last batch was read, whether it was returned or not."""
    recorder = Recorder()
    write(tmp_path, [recorder.scalars(2), recorder.happened("run/finished")])
    for after in (-1, 1, 2, 99):
        reader = JournalReader(tmp_path, after)
        assert not reader.ended
        read(reader)
        assert reader.ended
        reader.close()


def test_a_record_cut_off_at_any_byte(tmp_path: Path) -> None:
    """An unfinished last record is waited for, and is damage once the attempt is over."""
    recorder = Recorder()
    batches = [recorder.scalars(), recorder.scalars()]
    write(tmp_path, batches)
    segment = segment_paths(tmp_path)[0]
    whole, start = segment.read_bytes(), len(encode_record(batches[0]))
    for length in range(start + 1, len(whole)):
        segment.write_bytes(whole[:length])
        reader = JournalReader(tmp_path)
        assert frames(read(reader, final=False)) == frames(batches[:1])
        assert not reader.damages
        assert read(reader, final=True) == []
        assert [(damage.path, damage.offset, damage.length) for damage in reader.damages] == [
            (segment, start, length - start)
        ]
        reader.close()


def test_an_unfinished_record_is_read_once_it_is_complete(tmp_path: Path) -> None:
    """A record that is appended byte by byte is read once it is complete."""
    recorder = Recorder()
    batches = [recorder.scalars(), recorder.scalars()]
    data = b"".join(map(encode_record, batches))
    segment = tmp_path / f"{0:020d}.journal"
    segment.touch()
    reader = JournalReader(tmp_path)
    found: list[Batch] = []
    with segment.open("ab", buffering=0) as file:
        for byte in data:
            file.write(bytes([byte]))
            found += reader.read()
    assert frames(found) == frames(batches)
    reader.close()


def test_a_damaged_record_is_reported_with_its_place(tmp_path: Path) -> None:
    """Whichever byte of a segment is changed, only its record is missing, and is reported by path and offset."""
    recorder = Recorder()
    batches = [recorder.scalars() for _ in range(3)]
    write(tmp_path, batches)
    segment = segment_paths(tmp_path)[0]
    whole, ends = segment.read_bytes(), 0
    for damaged, batch in enumerate(batches):
        start, ends = ends, ends + len(encode_record(batch))
        for place in range(start, ends, 3):
            data = bytearray(whole)
            data[place] ^= 0x10
            segment.write_bytes(data)
            reader = JournalReader(tmp_path)
            assert frames(read(reader)) == frames([b for number, b in enumerate(batches) if number != damaged])
            assert [str(damage).split(": ")[:2] for damage in reader.damages] == [
                [str(segment), f"{ends - start} bytes at {start}"]
            ]
            reader.close()


def test_a_damaged_segment_does_not_affect_others(tmp_path: Path, recorded: list[Batch]) -> None:
    """A segment without a record is reported once, and the segments around it are read."""
    second = segment_paths(tmp_path)[1]
    lost = second.read_bytes()
    second.write_bytes(b"\x00" * 5000)
    reader = JournalReader(tmp_path)
    found = read(reader)
    reader.close()
    assert frames(found) == frames([batch for batch in recorded if encode_record(batch) not in lost])
    assert [(damage.path, damage.offset, damage.length) for damage in reader.damages] == [(second, 0, 5000)]


def test_records_across_reads(tmp_path: Path) -> None:
    """The same batches are read, whatever the size of a read."""
    recorder = Recorder()
    batches = [recorder.scalars(number + 1) for number in range(5)]
    write(tmp_path, batches, segment_bytes=300)
    for size in (1, 19, 20, 21, 64, 1000):
        assert frames(read_all(tmp_path, read_bytes=size)) == frames(batches)


def test_damage_across_reads_is_reported_once(tmp_path: Path) -> None:
    """Damage that takes many reads is reported once, with its whole length."""
    recorder = Recorder()
    batches = [recorder.scalars(), recorder.scalars()]
    first, second = map(encode_record, batches)
    (tmp_path / f"{0:020d}.journal").write_bytes(first + b"rubbish" * 200 + second)
    reader = JournalReader(tmp_path, read_bytes=100)
    assert frames(read(reader)) == frames(batches)
    assert [(damage.offset, damage.length) for damage in reader.damages] == [(len(first), 1400)]
    reader.close()


def test_a_reader_follows_a_writer(tmp_path: Path) -> None:
    """While a writer fills many small segments, a reader gets every batch, in order and once."""
    recorder = Recorder()
    batches = [recorder.scalars(1 + number % 5) for number in range(400)]

    def work() -> None:
        write(tmp_path, [*batches, recorder.happened("run/finished")], segment_bytes=2000)

    thread = threading.Thread(target=work)
    thread.start()
    reader = JournalReader(tmp_path)
    found: list[Batch] = []
    while not reader.ended:
        found += reader.read()
    thread.join()
    reader.close()
    assert frames(found[:-1]) == frames(batches)
    assert not reader.damages
    assert len(segment_paths(tmp_path)) > 5


class FullDisk:
    """Replaces `os.write` and `os.ftruncate` with those of a disk with `room` bytes left."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, room: int, *, can_cut: bool = True) -> None:
        self.room, self.can_cut = room, can_cut
        self._write, self._ftruncate = os.write, os.ftruncate
        monkeypatch.setattr(os, "write", self.write)
        monkeypatch.setattr(os, "ftruncate", self.ftruncate)

    def write(self, descriptor: int, data: memoryview) -> int:
        if not self.room:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        # A call may write only part of the data.
        size = self._write(descriptor, data[: min(self.room, 50)])
        self.room -= size
        return size

    def ftruncate(self, descriptor: int, size: int) -> None:
        if not self.can_cut:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        self.room += os.fstat(descriptor).st_size - size
        self._ftruncate(descriptor, size)


def test_a_partial_write_on_a_full_disk_is_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If the disk is full within a record, none of it remains, and the call succeeds once there is room."""
    recorder = Recorder()
    batches = [recorder.scalars(3) for _ in range(4)]
    writer = JournalWriter(tmp_path)
    writer.append(batches[:1])
    before = segment_paths(tmp_path)[0].read_bytes()
    disk = FullDisk(monkeypatch, room=len(encode_record(batches[1])) + 30)
    for _ in range(2):
        with pytest.raises(OSError, match="No space left"):
            writer.append(batches[1:])
        assert segment_paths(tmp_path)[0].read_bytes() == before
    disk.room = 10_000
    writer.append(batches[1:])
    writer.close()
    assert frames(read_all(tmp_path)) == frames(batches)


def test_a_fragment_that_cannot_be_removed_is_skipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Readers skip a fragment that remains, and a later removal keeps the batches after it."""
    recorder = Recorder()
    batches = [recorder.scalars(3) for _ in range(4)]
    writer = JournalWriter(tmp_path)
    writer.append(batches[:1])
    disk = FullDisk(monkeypatch, room=30, can_cut=False)
    with pytest.raises(OSError, match="No space left"):
        writer.append(batches[1:2])
    disk.room, disk.can_cut = len(b"".join(map(encode_record, batches[1:3]))) + 30, True
    writer.append(batches[1:3])
    with pytest.raises(OSError, match="No space left"):
        writer.append(batches[3:])
    writer.close()
    reader = JournalReader(tmp_path)
    assert frames(read(reader)) == frames(batches[:3])
    assert [damage.length for damage in reader.damages] == [30]
    reader.close()


@pytest.mark.parametrize("longer", [True, False])
def test_a_reader_that_read_a_removed_fragment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, longer: bool) -> None:
    """A reader that read a fragment before it was removed reads the batches that replaced it."""
    recorder = Recorder()
    first, refused = recorder.scalars(), recorder.scalars(20)
    writer = JournalWriter(tmp_path)
    writer.append([first])
    reader = JournalReader(tmp_path)
    disk = FullDisk(monkeypatch, room=300)
    seen: list[list[Batch]] = []
    cut = os.ftruncate

    def read_then_cut(descriptor: int, size: int) -> None:
        seen.append(reader.read())
        cut(descriptor, size)

    monkeypatch.setattr(os, "ftruncate", read_then_cut)
    with pytest.raises(OSError, match="No space left"):
        writer.append([refused])
    assert frames(seen[0]) == frames([first])
    assert reader.read() == []

    disk.room = 10_000
    instead = Recorder()
    instead.scalars()
    others = [instead.scalars(2) for _ in range(10 if longer else 1)]
    writer.append(others)
    writer.close()
    assert frames(read(reader, final=False)) == frames(others)
    assert not reader.damages
    reader.close()


def test_a_real_full_disk(tmp_path: Path) -> None:
    """On a file system that fills up and is freed again, the journal contains each batch once."""
    recorder = Recorder()
    batches = [recorder.scalars(50) for _ in range(30)]
    refused = 0
    with small_disk(tmp_path / "disk", 64) as disk:
        ballast = disk / "ballast"
        ballast.write_bytes(bytes(40 << 10))
        writer = JournalWriter(disk)
        for batch in batches:
            try:
                writer.append([batch])
            except OSError as error:
                assert error.errno == errno.ENOSPC
                refused += 1
                ballast.unlink()
                writer.append([batch])
        writer.close()
        reader = JournalReader(disk)
        assert frames(read(reader)) == frames(batches)
        reader.close()
    assert refused == 1
    assert not reader.damages


def test_a_missing_folder_is_an_os_error(tmp_path: Path) -> None:
    """Appending without the folder raises the system's error, and succeeds once the folder exists."""
    writer = JournalWriter(tmp_path / "missing")
    batch = Recorder().scalars()
    with pytest.raises(FileNotFoundError):
        writer.append([batch])
    writer.folder.mkdir()
    writer.append([batch])
    writer.close()
    assert frames(read_all(writer.folder)) == frames([batch])


def test_a_closed_writer_continues_in_another_segment(tmp_path: Path) -> None:
    """An append after `close` opens a new segment."""
    recorder = Recorder()
    batches = [recorder.scalars(), recorder.scalars()]
    writer = JournalWriter(tmp_path)
    for batch in batches:
        writer.append([batch])
        writer.close()
    writer.close()
    assert len(segment_paths(tmp_path)) == 2
    assert frames(read_all(tmp_path)) == frames(batches)


def test_reading_takes_bounded_memory(tmp_path: Path) -> None:
    """A damaged journal of 40 MiB is read in less than 20 MiB of memory."""
    with (tmp_path / f"{0:020d}.journal").open("wb") as file:
        for _ in range(40):
            file.write(b"TWJ1".ljust(4096) * 256)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    reader = JournalReader(tmp_path)
    assert read(reader) == []
    reader.close()
    assert len(reader.damages) == 1
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 20 << 10
