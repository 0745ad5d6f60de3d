"""The framing of the journal: encodes batches as records, and decodes records, skipping damaged ones. No files.

A record is a head of 20 bytes, little-endian, then the batch's header and body as they were sent:

    marker "TWJ1" | header length u32 | body length u32 | CRC-32 of header and body u32 | CRC-32 of these 16 bytes u32
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass, field
from typing import Final

from trainwire_protocol.errors import BadRecordError, ProtocolError, UnsupportedVersionError
from trainwire_protocol.wire import MAX_BODY_BYTES, MAX_HEADER_BYTES, Batch, decode_batch

MARKER: Final = b"TWJ1"

_HEAD: Final = struct.Struct("<4sIII")
_CHECK: Final = struct.Struct("<I")
HEAD_BYTES: Final = _HEAD.size + _CHECK.size

CUT_OFF: Final = "the record is cut off"

LOCKED_BYTES: Final = 64 << 10
"""Largest data, in bytes, whose checksum is computed without releasing the GIL, which takes about 50 µs."""

ZLIB_LOCKED_BYTES: Final = 5 << 10
"""Largest data, in bytes, for which `zlib.crc32` does not release the GIL (CPython's Modules/zlibmodule.c)."""


def encode_record(batch: Batch) -> bytes:
    """Return the batch as a record."""
    checksum = _checksum(batch.body, zlib.crc32(batch.header_bytes))
    head = _HEAD.pack(MARKER, len(batch.header_bytes), len(batch.body), checksum)
    return b"".join((head, _CHECK.pack(zlib.crc32(head)), batch.header_bytes, batch.body))


def _checksum(data: bytes, checksum: int) -> int:
    """Return the CRC-32. For small data the GIL is kept, as reacquiring it may take longer than the checksum."""
    if len(data) > LOCKED_BYTES:
        return zlib.crc32(data, checksum)
    for at in range(0, len(data), ZLIB_LOCKED_BYTES):
        checksum = zlib.crc32(data[at : at + ZLIB_LOCKED_BYTES], checksum)
    return checksum


def decode_record(data: bytes | bytearray, at: int = 0) -> tuple[Batch, int] | None:
    """Read the record that begins at `at`; return its batch and its end, or None if the data ends within the record.

    Raises:
        BadRecordError: no record begins here, or it is damaged.
        UnsupportedVersionError: a newer version wrote it.
    """
    if len(data) - at < HEAD_BYTES:
        if data[at : at + len(MARKER)] != MARKER[: len(data) - at]:
            raise BadRecordError("no record begins here")
        return None
    header_length, body_length, checksum = _decode_head(data, at)
    middle = at + HEAD_BYTES + header_length
    end = middle + body_length
    if len(data) < end:
        return None
    header, body = bytes(data[at + HEAD_BYTES : middle]), bytes(data[middle:end])
    if zlib.crc32(body, zlib.crc32(header)) != checksum:
        raise BadRecordError("the checksum is wrong")
    return decode_batch(header, body), end


def _decode_head(data: bytes | bytearray, at: int) -> tuple[int, int, int]:
    marker, header_length, body_length, checksum = _HEAD.unpack_from(data, at)
    if marker != MARKER:
        raise BadRecordError("no record begins here")
    if _CHECK.unpack_from(data, at + _HEAD.size) != (zlib.crc32(data[at : at + _HEAD.size]),):
        raise BadRecordError("the checksum of the head is wrong")
    if header_length > MAX_HEADER_BYTES or body_length > MAX_BODY_BYTES:
        raise BadRecordError(f"lengths of {header_length} and {body_length} bytes exceed the limits")
    return header_length, body_length, checksum


@dataclass
class Damage:
    """Bytes of a journal that contain no readable record."""

    offset: int
    length: int
    reason: str

    @property
    def is_torn(self) -> bool:
        """Whether this is the beginning of a record whose rest is missing."""
        return self.reason == CUT_OFF


@dataclass
class RecordScanner:
    """Reads records from bytes that arrive in pieces, and continues after damaged ones.

    Pass it bytes with `feed`, then call `records`. It holds at most one unfinished record, however much of the data is
    damaged.
    """

    offset: int = 0
    """Position in the file of the first byte that has not been read as a record or damage."""
    damages: list[Damage] = field(default_factory=list)
    """The damage found so far, in order, except one that may still continue."""
    _data: bytearray = field(default_factory=bytearray)
    _open: Damage | None = None

    def feed(self, data: bytes) -> None:
        """Append the file's next bytes."""
        self._data += data

    @property
    def unread(self) -> int:
        """The number of bytes of an unfinished record."""
        return len(self._data)

    def records(self, *, final: bool = False) -> list[Batch]:
        """Return the batches of all complete records. With `final`, no bytes follow, so an unfinished one is damage.

        Raises:
            UnsupportedVersionError: a newer version wrote a record.
        """
        batches: list[Batch] = []
        at = 0
        while at < len(self._data):
            try:
                found, reason = decode_record(self._data, at), CUT_OFF
            except UnsupportedVersionError:
                raise
            except ProtocolError as error:
                found, reason = None, str(error)
            if found:
                self._end_damage()
                batch, at = found
                batches.append(batch)
            elif final or reason != CUT_OFF:
                at = self._skip(at, reason)
            else:
                break
        if final:
            self._end_damage()
        del self._data[:at]
        self.offset += at
        return batches

    def _skip(self, at: int, reason: str) -> int:
        """Add the bytes up to the next possible record to the damage, and return where that record would begin."""
        following = _find_marker(self._data, at + 1)
        if self._open is None:
            self._open = Damage(self.offset + at, 0, reason)
        self._open.length += following - at
        return following

    def _end_damage(self) -> None:
        if self._open:
            self.damages.append(self._open)
            self._open = None


def _find_marker(data: bytearray, start: int) -> int:
    """Return where the next marker begins, or a part of one at the end of the data, or else the data's length."""
    found = data.find(MARKER, start)
    if found >= 0:
        return found
    cut = (len(data) - length for length in range(len(MARKER) - 1, 0, -1) if data.endswith(MARKER[:length]))
    return next((place for place in cut if place >= start), len(data))
