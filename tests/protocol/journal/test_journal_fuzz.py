"""Journals of arbitrary bytes: read or reported, in bounded memory, with only our own exceptions."""

from __future__ import annotations

import tempfile
import tracemalloc
from contextlib import suppress
from pathlib import Path

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.recorder import Recorder, frames
from support.strategies import plain_values

from trainwire_protocol.errors import MalformedBatchError, ProtocolError, UnsupportedVersionError
from trainwire_protocol.journal.records import encode_record
from trainwire_protocol.journal.segments import JournalReader
from trainwire_protocol.wire import decode_batch, unpack_map


def whole_journal() -> tuple[list[tuple[bytes, bytes]], bytes]:
    recorder = Recorder()
    batches = [recorder.scalars(number % 4 + 1) for number in range(12)]
    return frames(batches), b"".join(map(encode_record, batches))


FRAMES, JOURNAL = whole_journal()
edits = st.lists(
    st.tuples(st.integers(0, len(JOURNAL)), st.integers(0, 60), st.binary(max_size=60) | st.just(JOURNAL[:70])),
    min_size=1,
    max_size=5,
)


@given(edits, st.booleans())
def test_only_recorded_batches_are_read_from_a_changed_journal(
    changes: list[tuple[int, int, bytes]], final: bool
) -> None:
    """After arbitrary cuts and insertions, each batch read was recorded, in order and once."""
    data = bytearray(JOURNAL)
    for place, length, inserted in changes:
        data[place : place + length] = inserted
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / f"{0:020d}.journal").write_bytes(data)
        reader = JournalReader(Path(folder))
        found = frames(list(reader.read_all(final=final)))
        reader.close()
    places = [FRAMES.index(frame) for frame in found]
    assert places == sorted(set(places))


@given(st.lists(st.binary(max_size=300) | st.just(JOURNAL[:200]), max_size=4), st.integers(-1, 50))
def test_segments_of_any_bytes_are_read_or_reported(contents: list[bytes], after: int) -> None:
    """Reading segments of arbitrary bytes ends, from any position, and raises only our own exceptions."""
    with tempfile.TemporaryDirectory() as folder:
        for number, content in enumerate(contents):
            (Path(folder) / f"{number * 7:020d}.journal").write_bytes(content)
        reader = JournalReader(Path(folder), after)
        try:
            for batch in reader.read_all(final=True):
                _ = batch.malformed
        except (MalformedBatchError, UnsupportedVersionError):
            pass
        finally:
            reader.close()


BOMBS = {
    "a list that claims four billion items": b"\xdd\xff\xff\xff\xff",
    "a map that claims four billion items": b"\xdf\xff\xff\xff\xff",
    "bytes that claim four gigabytes": b"\xc6\xff\xff\xff\xff",
    "an extension that claims four gigabytes": b"\xc9\xff\xff\xff\xff\x01",
    "lists in lists": b"\x91" * 100_000,
    "maps in maps": b"\x81\xa1a" * 5_000,
    "many empty lists": b"\xdd\x00\x0f\x42\x40" + b"\x90" * 1_000_000,
}


@pytest.mark.parametrize("name", BOMBS)
def test_a_claimed_length_costs_no_memory(name: str) -> None:
    """Memory is in proportion to the bytes present, not to the lengths they claim."""
    bomb = BOMBS[name]
    header = decode_batch(*FRAMES[0]).header_bytes
    tracemalloc.start()
    try:
        with pytest.raises(ProtocolError):
            _ = decode_batch(header, bomb).events
        with pytest.raises(ProtocolError):
            unpack_map(bomb)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 100 * len(bomb) + (1 << 20)


@given(st.binary(max_size=200) | st.lists(plain_values, max_size=3).map(msgpack.packb))
def test_a_body_of_any_bytes_raises_only_our_error(body: bytes) -> None:
    """A body of arbitrary bytes gives events, a number of malformed ones, or our error."""
    batch = decode_batch(FRAMES[0][0], body)
    with suppress(MalformedBatchError):
        assert len(batch.events) + batch.malformed == batch.header.count
