"""The framing of a journal: batches to records and back, and past damaged ones. No files.

A record is a head of 20 bytes, little-endian, then the batch's header and body as they went over the wire:

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
CUT_OFF: Final = "the record is cut off"
LOCKED_BYTES: Final = 64 << 10
"""A checksum of no more than these is computed in some 50 µs, without letting other threads run."""
ZLIB_LOCKED_BYTES: Final = 5 << 10
"""Most bytes for which `zlib.crc32` keeps the interpreter's lock, by CPython's Modules/zlibmodule.c."""
HEAD_BYTES: Final = _HEAD.size + _CHECK.size


def encode_record(batch: Batch) -> bytes:
    """The batch as a record."""
    checksum = _checksum(batch.body, zlib.crc32(batch.header_bytes))
    head = _HEAD.pack(MARKER, len(batch.header_bytes), len(batch.body), checksum)
    return b"".join((head, _CHECK.pack(zlib.crc32(head)), batch.header_bytes, batch.body))


def _checksum(data: bytes, checksum: int) -> int:
    """The CRC-32; up to a limit without giving up the interpreter's lock, which may take longer to get back."""
    if len(data) > LOCKED_BYTES:
        return zlib.crc32(data, checksum)
    for at in range(0, len(data), ZLIB_LOCKED_BYTES):
        checksum = zlib.crc32(data[at : at + ZLIB_LOCKED_BYTES], checksum)
    return checksum


def decode_record(data: bytes | bytearray, at: int = 0) -> tuple[Batch, int] | None:
    """Read the record that begins at `at`: its batch and where the next begins, or None if it is not whole yet.

    Raises:
        BadRecordError: there is no record here, or it is damaged.
        UnsupportedVersionError: a newer version wrote it.
    """
    if len(data) - at < HEAD_BYTES:
        if data[at : at + len(MARKER)] != MARKER[: len(data) - at]:
            raise BadRecordError("no record begins here")
        return None
    marker, header_length, body_length, checksum = _HEAD.unpack_from(data, at)
    _check_head(data, at, marker, header_length, body_length)
    middle = at + HEAD_BYTES + header_length
    end = middle + body_length
    if len(data) < end:
        return None
    header, body = bytes(data[at + HEAD_BYTES : middle]), bytes(data[middle:end])
    if zlib.crc32(body, zlib.crc32(header)) != checksum:
        raise BadRecordError("the checksum is wrong")
    return decode_batch(header, body), end


def _check_head(data: bytes | bytearray, at: int, marker: bytes, header_length: int, body_length: int) -> None:
    if marker != MARKER:
        raise BadRecordError("no record begins here")
    if _CHECK.unpack_from(data, at + _HEAD.size) != (zlib.crc32(data[at : at + _HEAD.size]),):
        raise BadRecordError("the checksum of the head is wrong")
    if header_length > MAX_HEADER_BYTES or body_length > MAX_BODY_BYTES:
        raise BadRecordError(f"lengths of {header_length} and {body_length} bytes are past the limits")


@dataclass
class Damage:
    """Bytes of a journal in which no record could be read."""

    offset: int
    length: int
    reason: str

    @property
    def is_torn(self) -> bool:
        """Whether it is the beginning of a record whose rest is not there."""
        return self.reason == CUT_OFF


@dataclass
class RecordScanner:
    """Reads records out of bytes as they come, and goes on behind damaged ones.

    Feed it with `feed`, then take what `records` gives; tell `records` when no more bytes can come. It keeps no more
    than one record's bytes, however much of what it is fed is damaged.
    """

    offset: int = 0
    """Where in the file the bytes that are not yet read begin."""
    damages: list[Damage] = field(default_factory=list)
    """Those whose end was found, in their order."""
    _data: bytearray = field(default_factory=bytearray)
    _open: Damage | None = None

    def feed(self, data: bytes) -> None:
        """Append the file's next bytes."""
        self._data += data

    @property
    def unread(self) -> int:
        """How many bytes wait for the rest of their record."""
        return len(self._data)

    def records(self, *, final: bool = False) -> list[Batch]:
        """The batches of all records that are whole; `final` says that no more bytes will come.

        Raises:
            UnsupportedVersionError: a newer version wrote a record.
        """
        batches: list[Batch] = []
        at = 0
        while at < len(self._data):
            found, reason = self._read(at)
            if found:
                self._end_damage()
                batches.append(found[0])
                at = found[1]
            elif final or reason:
                at = self._skip(at, reason or CUT_OFF)
            else:
                break
        if final:
            self._end_damage()
        del self._data[:at]
        self.offset += at
        return batches

    def _read(self, at: int) -> tuple[tuple[Batch, int] | None, str]:
        try:
            return decode_record(self._data, at), ""
        except UnsupportedVersionError:
            raise
        except ProtocolError as error:
            return None, str(error)

    def _skip(self, at: int, reason: str) -> int:
        """Count bytes as damaged, up to where a record may begin."""
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
    """Where the next marker begins, or the beginning of one that the data ends with, or the data's end."""
    found = data.find(MARKER, start)
    if found >= 0:
        return found
    cut = (len(data) - length for length in range(len(MARKER) - 1, 0, -1) if data.endswith(MARKER[:length]))
    return next((place for place in cut if place >= start), len(data))
