"""The first and the last batches of a journal."""

from __future__ import annotations

from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st
from support.recorder import Recorder, frames

from trainwire_protocol.events import Event
from trainwire_protocol.journal.records import MARKER, encode_record
from trainwire_protocol.journal.run_folder import Attempt
from trainwire_protocol.journal.segments import JournalReader, JournalWriter
from trainwire_protocol.journal.tail import batches_backwards, read_first, read_head
from trainwire_protocol.wire import Batch


def attempt_in(folder: Path) -> Attempt:
    return Attempt("digits-1", 0, 0, folder)


def write(folder: Path, batches: list[Batch], segment_bytes: int = 1000) -> Attempt:
    writer = JournalWriter(folder, segment_bytes)
    for batch in batches:
        writer.append([batch])
    writer.close()
    return attempt_in(folder)


def test_batches_are_read_backwards(tmp_path: Path) -> None:
    """The batches of all segments are returned once, the last first."""
    recorder = Recorder()
    batches = [recorder.scalars(3, "media" if number % 3 == 0 else "event") for number in range(50)]
    attempt = write(tmp_path, batches)
    assert len(list(tmp_path.iterdir())) > 5
    assert frames(list(batches_backwards(attempt))) == frames(batches[::-1])
    head = read_head(attempt)
    assert (head.head, head.heads) == (149, {"event": 149, "media": 146})
    first = read_first(attempt)
    assert first is not None
    assert first.header_bytes == batches[0].header_bytes


def test_batches_are_selected_by_their_content(tmp_path: Path) -> None:
    """Only batches that contain the given bytes are returned."""
    recorder = Recorder()
    batches = [recorder.happened("epoch/finished") if number % 7 == 0 else recorder.scalars(5) for number in range(60)]
    attempt = write(tmp_path, batches)
    assert frames(list(batches_backwards(attempt, b"epoch/finished"))) == frames(batches[::7][::-1])
    assert list(batches_backwards(attempt, b"nothing of the kind")) == []


def test_an_empty_attempt_has_no_batches(tmp_path: Path) -> None:
    """An attempt that recorded nothing has no first batch, and its head is -1."""
    assert read_first(attempt_in(tmp_path)) is None
    assert read_head(attempt_in(tmp_path)).head == -1


def test_the_search_ends_at_the_limit(tmp_path: Path) -> None:
    """The search ends with the segment in which the limit is reached."""
    recorder = Recorder()
    attempt = write(tmp_path, [recorder.scalars(3) for _ in range(50)])
    last = sorted(tmp_path.glob("*.journal"))[-1]
    found = list(batches_backwards(attempt, limit=1))
    assert found[-1].header.seq == int(last.stem)


def test_a_record_within_a_text_is_not_a_batch(tmp_path: Path) -> None:
    """A marker or a whole record within a text is not returned as a batch."""
    recorder = Recorder()
    inner = encode_record(recorder.scalars())
    texts = [MARKER.decode() * 5, inner.decode("latin-1")]
    batches = [recorder.record([Event("note", text, "text", 1.0, 1)]) for text in texts]
    assert frames(list(batches_backwards(write(tmp_path, batches)))) == frames(batches[::-1])


@given(
    sizes=st.lists(st.integers(1, 4), min_size=1, max_size=8),
    damage=st.lists(st.tuples(st.integers(0, 4000), st.binary(min_size=1, max_size=6)), max_size=3),
    cut=st.integers(0, 60),
)
def test_damaged_journals_are_read_backwards_as_forwards(
    tmp_path_factory, sizes: list[int], damage: list[tuple[int, bytes]], cut: int
) -> None:
    """Whatever was overwritten or cut off, the batches are those that a reader finds from the start."""
    folder = tmp_path_factory.mktemp("journal")
    recorder = Recorder()
    attempt = write(folder, [recorder.scalars(size) for size in sizes], segment_bytes=1 << 20)
    (path,) = folder.iterdir()
    data = bytearray(path.read_bytes())
    for place, wrong in damage:
        data[place % len(data) : place % len(data) + len(wrong)] = wrong
    path.write_bytes(data[: len(data) - cut])
    reader = JournalReader(folder)
    forwards = list(reader.read_all(final=True))
    reader.close()
    assert frames(list(batches_backwards(attempt))) == frames(forwards[::-1])
