"""What sinks write to, so that it can be brought back to what it was at a commit.

Outputs are of two kinds: *append* (truncated to the length it had) and *replace* (written whole by rename, from the
sink's state). How far an output has got is one number, its length in bytes.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from pathlib import Path
from typing import Final, Protocol

import aiofiles
from aiofiles.threadpool.binary import AsyncBufferedIOBase

from trainwire_protocol.errors import OutputChangedError
from trainwire_protocol.journal.files import remove_unfinished, write_atomically

BUFFER_BYTES: Final = 1 << 20
"""How much an append output holds back before it writes, commit or not."""


class Output(Protocol):
    """What a sink writes to."""

    @property
    def length(self) -> int:
        """How long it is, in bytes, with what waits to be written."""

    def exists(self) -> bool:
        """Whether there is something on the disk already."""

    async def open(self, length: int) -> None:
        """Bring it back to `length` bytes; 0 begins it.

        Raises:
            OutputChangedError: it is shorter than that, or gone.
            OSError: it cannot be written.
        """

    async def flush(self) -> None:
        """Hand everything to the operating system."""

    async def close(self) -> None:
        """Let go of it, as it stands on the disk: what was not flushed is dropped."""


class NoOutput:
    """The output of a sink that writes no file."""

    length = 0

    def exists(self) -> bool:
        """There is never anything."""
        return False

    async def open(self, length: int) -> None:
        """Nothing is to be done."""

    async def flush(self) -> None:
        """Nothing is to be done."""

    async def close(self) -> None:
        """Nothing is to be done."""


class AppendOutput:
    """A file that only grows. Its folder is made when it is opened."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: AsyncBufferedIOBase | None = None
        self._written = 0
        self._waiting: list[bytes] = []
        self._waiting_bytes = 0

    @property
    def length(self) -> int:
        """How long it is, in bytes, with what waits to be written."""
        return self._written + self._waiting_bytes

    def exists(self) -> bool:
        """Whether the file is there with something in it."""
        return size_of(self.path) > 0

    async def open(self, length: int) -> None:
        """Truncate the file to `length` bytes."""
        await self.close()
        await asyncio.to_thread(_truncate, self.path, length)
        self._file = await aiofiles.open(self.path, "ab")
        self._written = length

    async def write(self, data: str | bytes) -> None:
        """Append `data`, text as UTF-8."""
        encoded = data.encode() if isinstance(data, str) else data
        self._waiting.append(encoded)
        self._waiting_bytes += len(encoded)
        if self._waiting_bytes >= BUFFER_BYTES:
            await self.flush()

    async def flush(self) -> None:
        """Write what waits."""
        if self._file is None or not self._waiting:
            return
        data = b"".join(self._waiting)
        await self._file.write(data)
        await self._file.flush()
        self._written += len(data)
        self._waiting, self._waiting_bytes = [], 0

    async def close(self) -> None:
        """Close the file; what waits is dropped."""
        self._waiting, self._waiting_bytes = [], 0
        file, self._file = self._file, None
        if file is not None:
            # After a failed write the buffer is still full: closing fails as the write did, which was told already.
            with contextlib.suppress(OSError):
                await file.close()


class ReplaceOutput:
    """A file that is written whole by rename: a reader sees the old one or the new one."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.length = 0

    def exists(self) -> bool:
        """Whether the file is there with something in it."""
        return size_of(self.path) > 0

    async def open(self, length: int) -> None:
        """Check that the file is there; one of length 0 is removed, a newer one than was committed stays as it is."""
        await asyncio.to_thread(_check_or_remove, self.path, length)
        self.length = length

    async def read(self) -> bytes:
        """What the file holds; nothing if there is none."""
        try:
            async with aiofiles.open(self.path, "rb") as file:
                return await file.read()
        except FileNotFoundError:
            return b""

    async def replace(self, data: str | bytes) -> None:
        """Put `data` in the file's place, text as UTF-8."""
        encoded = data.encode() if isinstance(data, str) else data
        await asyncio.to_thread(write_atomically, self.path, encoded)
        self.length = len(encoded)

    async def flush(self) -> None:
        """Nothing is held back."""

    async def close(self) -> None:
        """Nothing is held open."""


def size_of(path: Path) -> int:
    """The size of a file in bytes; 0 if it is not there."""
    try:
        return path.stat().st_size
    except (FileNotFoundError, NotADirectoryError):
        return 0


def _truncate(path: Path, length: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if not length:
        path.write_bytes(b"")
        return
    _check_length(path, length)
    os.truncate(path, length)


def _check_or_remove(path: Path, length: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    remove_unfinished(path)
    if not length:
        path.unlink(missing_ok=True)
        return
    _check_length(path, length)


def _check_length(path: Path, length: int) -> None:
    if (size := size_of(path)) < length:
        raise OutputChangedError(f"{path} has {size} bytes and should have {length}")


class SeriesOutput:
    """A series of numbered files that grows at its end, as TensorBoard's event files do. Its length is that of all.

    Args:
        folder: where they are.
        pattern: the file's name, with `{}` for a number of ten digits that begins at 1.
    """

    def __init__(self, folder: Path, pattern: str) -> None:
        self.folder = folder
        self.pattern = pattern
        self._before = 0
        self._number = 1
        self._last = AppendOutput(self._path(1))

    @property
    def length(self) -> int:
        """How long all files are together, in bytes."""
        return self._before + self._last.length

    def exists(self) -> bool:
        """Whether the first file is there with something in it."""
        return bool(self._paths_from(1))

    async def open(self, length: int) -> None:
        """Truncate the file in which `length` falls, and remove those behind it."""
        await self.close()
        self._number, self._before = await asyncio.to_thread(self._locate, length)
        await asyncio.to_thread(self._remove_from, self._number + 1 if length else 1)
        self._last = AppendOutput(self._path(self._number))
        if length:
            await self._last.open(length - self._before)

    async def write(self, data: bytes) -> None:
        """Append to the last file, which is made now if there is none."""
        if not self.length:
            await self._last.open(0)
        await self._last.write(data)

    async def begin_next(self) -> None:
        """End the last file and begin another."""
        await self._last.flush()
        self._before += self._last.length
        await self._last.close()
        self._number += 1
        self._last = AppendOutput(self._path(self._number))
        await self._last.open(0)

    async def repeat(self, begin: int, end: int) -> None:
        """Append once more what stands from `begin` to `end`, within one of the files before the last.

        Raises:
            OutputChangedError: it is not there any more.
        """
        while begin < end:
            data = await asyncio.to_thread(self._read, begin, min(end, begin + BUFFER_BYTES))
            await self.write(data)
            begin += len(data)

    async def flush(self) -> None:
        """Write what waits."""
        await self._last.flush()

    async def close(self) -> None:
        """Close the last file; what waits is dropped."""
        await self._last.close()

    def _path(self, number: int) -> Path:
        return self.folder / self.pattern.format(f"{number:010d}")

    def _paths_from(self, number: int) -> list[Path]:
        return [path for path in sorted(self.folder.glob(self.pattern.format("*"))) if path >= self._path(number)]

    def _locate(self, length: int) -> tuple[int, int]:
        """The number of the file in which `length` falls, and the length of those before it."""
        number, before = 1, 0
        while length > before + (size := size_of(self._path(number))):
            if not size:
                raise OutputChangedError(f"{self.folder} holds {before} bytes of events and should hold {length}")
            number, before = number + 1, before + size
        return number, before

    def _read(self, begin: int, end: int) -> bytes:
        number, before = self._locate(begin + 1)
        with self._path(number).open("rb") as file:
            file.seek(begin - before)
            data = file.read(end - begin)
        if len(data) < end - begin:
            raise OutputChangedError(f"{self._path(number)} lacks {end - begin - len(data)} bytes that it held")
        return data

    def _remove_from(self, number: int) -> None:
        for path in reversed(self._paths_from(number)):
            path.unlink()
