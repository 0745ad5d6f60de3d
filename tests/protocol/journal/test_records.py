"""The framing of journals: records come back, torn ones are waited for, damaged ones are told of and passed."""

from __future__ import annotations

import struct
import zlib

import msgpack
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from support.recording import Recorder, frames
from support.strategies import batches

from trainwire_protocol.errors import BadRecordError, UnsupportedVersionError
from trainwire_protocol.journal.records import HEAD_BYTES, MARKER, RecordScanner, decode_record, encode_record
from trainwire_protocol.wire import MAX_BODY_BYTES, MAX_HEADER_BYTES, VERSION, Batch


def some_batches() -> list[Batch]:
    recorder = Recorder()
    return [recorder.scalars(), recorder.scalars(3), recorder.scalars(2, "media")]


def scan(data: bytes, *, final: bool = True) -> tuple[list[Batch], list[tuple[int, int]]]:
    scanner = RecordScanner()
    scanner.feed(data)
    found = scanner.records(final=final)
    return found, [(damage.offset, damage.length) for damage in scanner.damages]


def head(header_length: int, body_length: int) -> bytes:
    """A head whose checksum is right."""
    fields = struct.pack("<4sIII", MARKER, header_length, body_length, 0)
    return fields + struct.pack("<I", zlib.crc32(fields))


@given(batches())
def test_a_record_comes_back_as_it_was(batch: Batch) -> None:
    """A batch is the same, to the byte, after encoding and decoding its record."""
    record = encode_record(batch)
    found = decode_record(b"before" + record, 6)
    assert found
    assert frames([found[0]]) == frames([batch])
    assert found[1] == 6 + len(record)


def test_a_record_is_not_whole_before_its_last_byte() -> None:
    """Cut off at any byte, a record is neither read nor called damaged."""
    record = encode_record(some_batches()[0])
    for length in range(len(record)):
        assert decode_record(record[:length]) is None
    assert decode_record(record)


def test_records_come_in_pieces_of_any_size() -> None:
    """However the bytes are cut into pieces, the same batches are read."""
    sent = some_batches()
    data = b"".join(map(encode_record, sent))
    for size in (1, 2, 7, HEAD_BYTES, len(data)):
        scanner = RecordScanner()
        found = []
        for start in range(0, len(data), size):
            scanner.feed(data[start : start + size])
            found += scanner.records()
        assert frames(found) == frames(sent)
        assert not scanner.damages
        assert scanner.offset == len(data)
        assert scanner.unread == 0


def test_a_torn_tail_is_awaited_while_more_may_come_and_damage_in_the_end() -> None:
    """A last record that is cut at any byte waits for its rest, and is told of once none can come."""
    sent = some_batches()
    whole, torn = b"".join(map(encode_record, sent[:2])), encode_record(sent[2])
    for length in range(1, len(torn)):
        data = whole + torn[:length]
        assert scan(data, final=False)[1] == []
        found, damages = scan(data)
        assert frames(found) == frames(sent[:2])
        assert damages == [(len(whole), length)]


def test_a_damaged_byte_anywhere_costs_one_record() -> None:
    """Whichever byte is changed, that record is told of with its place, and all others are read."""
    sent = some_batches()
    records = [encode_record(batch) for batch in sent]
    start = len(records[0])
    for place in range(start, start + len(records[1])):
        data = bytearray(b"".join(records))
        data[place] ^= 0xFF
        found, damages = scan(bytes(data))
        assert frames(found) == frames([sent[0], sent[2]])
        assert damages == [(start, len(records[1]))]


def test_damage_is_passed_while_the_writer_lives() -> None:
    """A reader that follows a living writer goes on behind damage as soon as a whole record comes."""
    sent = some_batches()
    scanner = RecordScanner()
    scanner.feed(b"rubbish" + encode_record(sent[0])[:10])
    assert scanner.records() == []
    assert not scanner.damages
    scanner.feed(encode_record(sent[0])[10:])
    assert frames(scanner.records()) == frames(sent[:1])
    assert [(damage.offset, damage.length) for damage in scanner.damages] == [(0, 7)]


def test_a_marker_within_a_body_is_no_record() -> None:
    """A body that holds the marker, or a whole record, is read as the body that it is."""
    recorder = Recorder()
    inner = encode_record(recorder.scalars())
    outer = recorder.record([recorder.scalars().events[0]._replace(type="text", value=MARKER.decode() * 3)])
    nested = recorder.record([outer.events[0]._replace(type="hparams", value={"data": inner})])
    found, damages = scan(encode_record(outer) + encode_record(nested))
    assert frames(found) == frames([outer, nested])
    assert not damages


@given(st.lists(st.binary(max_size=60) | st.just(MARKER) | batches().map(encode_record), max_size=6), st.booleans())
@example([MARKER, MARKER, b"T", b"W"], True)
@example([head(5, 1 << 20), MARKER[:3]], False)
def test_any_bytes_are_read_or_told_of(parts: list[bytes], final: bool) -> None:
    """Whatever bytes come, nothing but our error is raised, and each byte is read, damaged or awaited."""
    data = b"".join(parts)
    scanner = RecordScanner()
    found = []
    for start in range(0, len(data), 50):
        scanner.feed(data[start : start + 50])
        found += scanner.records()
    if final:
        found += scanner.records(final=True)
        assert scanner.unread == 0
        told = sum(damage.length for damage in scanner.damages)
        assert told + sum(len(encode_record(batch)) for batch in found) == len(data)


def test_whole_records_among_rubbish_are_all_found() -> None:
    """Between stretches of rubbish, every whole record is read."""
    sent = some_batches()
    rubbish = [b"TW", MARKER, MARKER * 2 + b"J1", b"\x00" * 100]
    data = b"".join(part for pair in zip(rubbish, map(encode_record, sent), strict=False) for part in pair)
    found, damages = scan(data + rubbish[3])
    assert frames(found) == frames(sent)
    assert [length for _, length in damages] == [2, 4, 10, 100]


def test_rubbish_is_not_kept_in_memory() -> None:
    """A reader of endless rubbish keeps no more of it than may become a record."""
    scanner = RecordScanner()
    for _ in range(100):
        scanner.feed(b"rubbish T" * 1000)
        scanner.records()
        assert scanner.unread < HEAD_BYTES
    assert scanner.offset + scanner.unread == 900_000


@pytest.mark.parametrize("lengths", [(MAX_HEADER_BYTES + 1, 0), (0, MAX_BODY_BYTES + 1), (2**32 - 1, 2**32 - 1)])
def test_lengths_past_the_limits_are_damage_at_once(lengths: tuple[int, int]) -> None:
    """A head that announces more than a batch may have is not waited for, even if its checksum is right."""
    with pytest.raises(BadRecordError, match="past the limits"):
        decode_record(head(*lengths))


def test_a_length_is_not_believed_without_its_checksum() -> None:
    """A damaged length makes nobody wait for bytes that will not come."""
    record = bytearray(encode_record(some_batches()[0]))
    record[8:12] = struct.pack("<I", MAX_BODY_BYTES)
    with pytest.raises(BadRecordError, match="checksum of the head"):
        decode_record(bytes(record))


def test_a_record_of_a_newer_version_is_refused() -> None:
    """A record whose header is of a newer major version is not passed as damage: it is refused."""
    header, body = msgpack.packb({"version": VERSION + 1}), b"\x90"
    record = encode_record(Batch(some_batches()[0].header, header, body))
    with pytest.raises(UnsupportedVersionError):
        scan(record)
