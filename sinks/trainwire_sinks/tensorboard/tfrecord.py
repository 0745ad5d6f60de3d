"""The framing of TensorBoard's event files, with checksums at native speed.

A record is, little-endian: length u64 | masked CRC-32C of the length u32 | data | masked CRC-32C of the data u32.
"""

from __future__ import annotations

import struct
from functools import lru_cache

import google_crc32c


def record(data: bytes) -> bytes:
    """`data` as a record."""
    return b"".join((_head(len(data)), data, _masked_checksum(data)))


@lru_cache(maxsize=4096)
def _head(length: int) -> bytes:
    encoded = struct.pack("<Q", length)
    return encoded + _masked_checksum(encoded)


def _masked_checksum(data: bytes) -> bytes:
    """The CRC-32C, rotated and shifted, as TensorFlow does lest a CRC be taken of data that holds CRCs."""
    checksum = google_crc32c.value(data)
    return struct.pack("<I", ((checksum >> 15 | checksum << 17) + 0xA282EAD8) & 0xFFFFFFFF)
