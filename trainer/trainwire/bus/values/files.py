"""Files of images and sounds, passed as their bytes, as a path, or opened."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Any

from trainwire_protocol.errors import UnsupportedValueError
from trainwire_protocol.events import MAX_VALUE_BYTES


def read_file(value: Any) -> bytes | None:
    """Return the contents of a file; None if the value is not one.

    The file is read at once, since it may be overwritten after the call.

    Raises:
        UnsupportedValueError: it does not exist, cannot be read, or is too large.
    """
    if isinstance(value, (bytes, bytearray, memoryview)):
        return bytes(value)
    if isinstance(value, (str, os.PathLike)):
        return _read_path(Path(value))
    if callable(getattr(value, "getvalue", None)):  # io.BytesIO, whatever its position
        value = value.getvalue()
        return value if isinstance(value, bytes) else None
    if callable(getattr(value, "read", None)):
        value = value.read(MAX_VALUE_BYTES + 1)
        return value if isinstance(value, bytes) else None
    return None


def _read_path(path: Path) -> bytes:
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):  # reading a pipe or a device may never end
            raise UnsupportedValueError(f"{str(path)!r:.200} is not a file")
        if status.st_size > MAX_VALUE_BYTES:
            raise UnsupportedValueError(
                f"the file {str(path)!r:.200} has {status.st_size} bytes; at most {MAX_VALUE_BYTES} are allowed"
            )
        return path.read_bytes()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UnsupportedValueError(f"the file {str(path)!r:.200} cannot be read: {reason}") from None
