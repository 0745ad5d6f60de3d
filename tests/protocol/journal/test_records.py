"""The framing of journals: complete, unfinished and damaged records."""

from __future__ import annotations

import struct
import zlib

import msgpack
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from support.recorder import Recorder, frames
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
    """A head with a valid checksum."""
    fields = struct.pack("<4sIII", MARKER, header_length, body_length, 0)
    return fields + struct.pack("<I", zlib.crc32(fields))


@given(batches())
def test_a_record_is_decoded_to_its_batch(batch: Batch) -> None:
    """Decoding a record returns the batch that was encoded, byte for byte."""
    record = encode_record(batch)
    found = decode_record(b"before" + record, 6)
    assert found
    assert frames([found[0]]) == frames([batch])
    assert found[1] == 6 + len(record)


def test_an_unfinished_record_is_not_damaged() -> None:
    """A record that is cut off at any byte is neither decoded nor an error."""
    record = encode_record(some_batches()[0])
    for length in range(len(record)):
        assert decode_record(record[:length]) is None
    assert decode_record(record)


def test_records_arrive_in_pieces_of_any_size() -> None:
    """The same batches are read, however the bytes are divided."""
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


def test_an_unfinished_record_is_damage_only_at_the_end() -> None:
    """The last record, cut off at any byte, waits for its rest, and is reported once no more bytes follow."""
    sent = some_batches()
    whole, torn = b"".join(map(encode_record, sent[:2])), encode_record(sent[2])
    for length in range(1, len(torn)):
        data = whole + torn[:length]
        assert scan(data, final=False)[1] == []
        found, damages = scan(data)
        assert frames(found) == frames(sent[:2])
        assert damages == [(len(whole), length)]


def test_a_damaged_byte_anywhere_costs_one_record() -> None:
    """Whichever byte is changed, its record is reported with its location, and all others are read."""
    sent = some_batches()
    records = [encode_record(batch) for batch in sent]
    start = len(records[0])
    for place in range(start, start + len(records[1])):
        data = bytearray(b"".join(records))
        data[place] ^= 0xFF
        found, damages = scan(bytes(data))
        assert frames(found) == frames([sent[0], sent[2]])
        assert damages == [(start, len(records[1]))]


def test_damage_is_skipped_while_the_writer_is_alive() -> None:
    """A reader continues after damage as soon as a complete record follows it."""
    sent = some_batches()
    scanner = RecordScanner()
    scanner.feed(b"rubbish" + encode_record(sent[0])[:10])
    assert scanner.records() == []
    assert not scanner.damages
    scanner.feed(encode_record(sent[0])[10:])
    assert frames(scanner.records()) == frames(sent[:1])
    assert [(damage.offset, damage.length) for damage in scanner.damages] == [(0, 7)]


def test_a_marker_within_a_body_is_not_a_record() -> None:
    """A body that contains the marker, or a whole record, is read as a body."""
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
def test_any_bytes_are_read_or_reported(parts: list[bytes], final: bool) -> None:
    """Each of arbitrary bytes is part of a batch, of damage or of an unfinished record."""
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


def test_all_records_between_other_bytes_are_found() -> None:
    """Every complete record between other bytes is read."""
    sent = some_batches()
    rubbish = [b"TW", MARKER, MARKER * 2 + b"J1", b"\x00" * 100]
    data = b"".join(part for pair in zip(rubbish, map(encode_record, sent), strict=False) for part in pair)
    found, damages = scan(data + rubbish[3])
    assert frames(found) == frames(sent)
    assert [length for _, length in damages] == [2, 4, 10, 100]


def test_damage_is_not_kept_in_memory() -> None:
    """However many other bytes there are, only those that may begin a record are kept."""
    scanner = RecordScanner()
    for _ in range(100):
        scanner.feed(b"rubbish T" * 1000)
        scanner.records()
        assert scanner.unread < HEAD_BYTES
    assert scanner.offset + scanner.unread == 900_000


@pytest.mark.parametrize("lengths", [(MAX_HEADER_BYTES + 1, 0), (0, MAX_BODY_BYTES + 1), (2**32 - 1, 2**32 - 1)])
def test_a_length_above_the_limit_is_damage(lengths: tuple[int, int]) -> None:
    """A head with a length above the limit is damage, even if its checksum is valid."""
    with pytest.raises(BadRecordError, match="exceed the limits"):
        decode_record(head(*lengths))


def test_a_damaged_length_is_not_waited_for() -> None:
    """A length that does not match the checksum of the head is damage at once."""
    record = bytearray(encode_record(some_batches()[0]))
    record[8:12] = struct.pack("<I", MAX_BODY_BYTES)
    with pytest.raises(BadRecordError, match="checksum of the head"):
        decode_record(bytes(record))


def test_a_record_of_a_newer_version_is_refused() -> None:
    """A record of a newer major version is an error, not damage."""
    header, body = msgpack.packb({"version": VERSION + 1}), b"\x90"
    record = encode_record(Batch(some_batches()[0].header, header, body))
    with pytest.raises(UnsupportedVersionError):
        scan(record)
