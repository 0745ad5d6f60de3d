"""The outputs of sinks, which can be restored to their state at a commit.

There are two kinds. An *append* output is truncated to its earlier length. A *replace* output is written as a whole, by
rename, from the sink's state. The state of either is one number: its length in bytes. When a run starts anew, the
output of its earlier attempts is kept aside under another name.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from glob import escape
from pathlib import Path
from typing import Final, Protocol

import aiofiles
from aiofiles.threadpool.binary import AsyncBufferedIOBase

from trainwire_protocol.errors import OutputChangedError
from trainwire_protocol.journal.files import remove_unfinished, write_atomically

BUFFER_BYTES: Final = 1 << 20
"""Buffered bytes at which an append output writes without waiting for a commit."""


class Output(Protocol):
    """The output of a sink, which can be restored to an earlier length."""

    @property
    def length(self) -> int:
        """Length in bytes, buffered data included."""

    def exists(self) -> bool:
        """Return whether there is data on disk, kept aside or not."""

    async def open(self, length: int) -> None:
        """Restore the output to `length` bytes; 0 starts it empty.

        Raises:
            OutputChangedError: the output is shorter than that, or missing.
            OSError: the output cannot be written.
        """

    async def flush(self) -> None:
        """Pass all data to the operating system."""

    async def close(self) -> None:
        """Close the output; data that was not flushed is dropped."""

    async def keep_aside(self, attempt: int) -> None:
        """Rename the closed output to that of an attempt; do nothing if it is empty or missing."""


class NoOutput:
    """The output of a sink that writes no file."""

    length = 0

    def exists(self) -> bool:
        """Return False."""
        return False

    async def open(self, length: int) -> None:
        """Do nothing."""

    async def flush(self) -> None:
        """Do nothing."""

    async def close(self) -> None:
        """Do nothing."""

    async def keep_aside(self, attempt: int) -> None:
        """Do nothing."""


class AppendOutput:
    """A file that only grows. Opening it creates its folder."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: AsyncBufferedIOBase | None = None
        self._written = 0
        self._buffer: list[bytes] = []
        self._buffered = 0

    @property
    def length(self) -> int:
        """Length in bytes, buffered data included."""
        return self._written + self._buffered

    def exists(self) -> bool:
        """Return whether the file exists and is not empty, or was kept aside."""
        return _size(self.path) > 0 or bool(_paths_aside(self.path))

    async def open(self, length: int) -> None:
        """Truncate the file to `length` bytes."""
        await self.close()
        await asyncio.to_thread(_truncate, self.path, length)
        self._file = await aiofiles.open(self.path, "ab")
        self._written = length

    async def write(self, data: str | bytes) -> None:
        """Append data; text is encoded as UTF-8."""
        encoded = data.encode() if isinstance(data, str) else data
        self._buffer.append(encoded)
        self._buffered += len(encoded)
        if self._buffered >= BUFFER_BYTES:
            await self.flush()

    async def flush(self) -> None:
        """Write buffered data to the file."""
        if self._file is None or not self._buffer:
            return
        data = b"".join(self._buffer)
        await self._file.write(data)
        await self._file.flush()
        self._written += len(data)
        self._buffer, self._buffered = [], 0

    async def close(self) -> None:
        """Close the file; buffered data is dropped."""
        self._buffer, self._buffered = [], 0
        file, self._file = self._file, None
        if file is not None:
            # After a failed write the file's own buffer is still full, so closing fails with the error already raised.
            with contextlib.suppress(OSError):
                await file.close()

    async def keep_aside(self, attempt: int) -> None:
        """Rename the file to that of an attempt."""
        await asyncio.to_thread(_keep_aside, self.path, attempt)


class SeriesOutput:
    """A series of numbered files that grows at its end, like TensorBoard's event files.

    Its length is the sum of the lengths of its files. The files of a new start of the run have a folder of their own.

    Args:
        folder: the folder of the first start's files.
        pattern: the files' name, with `{}` for a number of ten digits that starts at 1.
    """

    def __init__(self, folder: Path, pattern: str) -> None:
        self.folder = folder
        self.pattern = pattern
        self._earlier_length = 0
        self._number = 1
        self._last = AppendOutput(folder / self._name(1))

    @property
    def length(self) -> int:
        """Length of all files together in bytes, buffered data included."""
        return self._earlier_length + self._last.length

    def exists(self) -> bool:
        """Return whether there is any file of the series."""
        return bool(self._paths_from(1))

    async def open(self, length: int) -> None:
        """Truncate the file that contains position `length`, and remove the later ones."""
        await self.close()
        self._number, self._earlier_length, path = await asyncio.to_thread(self._locate, length)
        await asyncio.to_thread(self._remove_from, self._number + 1 if length else 1)
        self._last = AppendOutput(path)
        if length:
            await self._last.open(length - self._earlier_length)

    async def write(self, data: bytes) -> None:
        """Append to the last file, which is created if there is none."""
        if not self.length:
            await self._last.open(0)
        await self._last.write(data)

    async def begin_next(self, start: int = 0) -> None:
        """End the last file and begin another, in the folder of the attempt `start`; 0 is the first folder."""
        await self._last.flush()
        self._earlier_length += self._last.length
        await self._last.close()
        self._number += 1
        folder = aside_path(self.folder, start) if start else self.folder
        self._last = AppendOutput(folder / self._name(self._number))
        await self._last.open(0)

    async def repeat(self, begin: int, end: int) -> None:
        """Append a copy of the bytes from `begin` to `end`, which must be in one of the files before the last.

        Raises:
            OutputChangedError: the bytes are missing.
        """
        while begin < end:
            data = await asyncio.to_thread(self._read, begin, min(end, begin + BUFFER_BYTES))
            await self.write(data)
            begin += len(data)

    async def flush(self) -> None:
        """Write buffered data to the last file."""
        await self._last.flush()

    async def close(self) -> None:
        """Close the last file; buffered data is dropped."""
        await self._last.close()

    async def keep_aside(self, attempt: int) -> None:
        """Move the files to the subfolder of an attempt, for sinks that do not keep what a new start supersedes."""
        await asyncio.to_thread(self._move, self.folder / f"attempt-{attempt}")

    def _name(self, number: int) -> str:
        return self.pattern.format(f"{number:010d}")

    def _paths_from(self, number: int) -> list[Path]:
        folders = [self.folder, *_paths_aside(self.folder)]
        paths = (path for folder in folders for path in folder.glob(self.pattern.format("*")))
        return sorted((path for path in paths if path.name >= self._name(number)), key=lambda path: path.name)

    def _locate(self, length: int) -> tuple[int, int, Path]:
        """Return the number of the file that contains position `length`, the length of the earlier files, its path."""
        paths = {path.name: path for path in self._paths_from(1)}
        number, earlier = 1, 0
        while True:
            name = self._name(number)
            path = paths.get(name, self.folder / name)
            size = _size(path)
            if length <= earlier + size:
                return number, earlier, path
            if not size:
                raise OutputChangedError(f"{self.folder} has {earlier} bytes of events and should have {length}")
            number, earlier = number + 1, earlier + size

    def _read(self, begin: int, end: int) -> bytes:
        _, earlier, path = self._locate(begin + 1)
        with path.open("rb") as file:
            file.seek(begin - earlier)
            data = file.read(end - begin)
        if len(data) < end - begin:
            raise OutputChangedError(f"{path} lacks {end - begin - len(data)} bytes that were written")
        return data

    def _move(self, folder: Path) -> None:
        for path in self._paths_from(1):
            folder.mkdir(exist_ok=True)
            path.replace(folder / path.name)

    def _remove_from(self, number: int) -> None:
        for path in reversed(self._paths_from(number)):
            path.unlink()


class ReplaceOutput:
    """A file that is replaced as a whole, by rename, so that a reader sees either the old or the new content."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.length = 0

    def exists(self) -> bool:
        """Return whether the file exists and is not empty, or was kept aside."""
        return _size(self.path) > 0 or bool(_paths_aside(self.path))

    async def open(self, length: int) -> None:
        """Check that the file exists; a length of 0 removes it. A file that is newer than the commit is kept."""
        await asyncio.to_thread(_check_or_remove, self.path, length)
        self.length = length

    async def read(self) -> bytes:
        """Return the content of the file; empty if it does not exist."""
        try:
            async with aiofiles.open(self.path, "rb") as file:
                return await file.read()
        except FileNotFoundError:
            return b""

    async def replace(self, data: str | bytes) -> None:
        """Replace the content with `data`; text is encoded as UTF-8."""
        encoded = data.encode() if isinstance(data, str) else data
        await asyncio.to_thread(write_atomically, self.path, encoded)
        self.length = len(encoded)

    async def flush(self) -> None:
        """Do nothing: nothing is buffered."""

    async def close(self) -> None:
        """Do nothing: no file is kept open."""

    async def keep_aside(self, attempt: int) -> None:
        """Rename the file to that of an attempt."""
        await asyncio.to_thread(_keep_aside, self.path, attempt)


def aside_path(path: Path, attempt: int | str) -> Path:
    """Return where the output of an attempt is kept aside: `loss.attempt-0.tsv` for `loss.tsv`."""
    return path.with_name(f"{path.stem}.attempt-{attempt}{path.suffix}")


def _paths_aside(path: Path) -> list[Path]:
    pattern = aside_path(path.with_name(f"{escape(path.stem)}{escape(path.suffix)}"), "*")
    return [found for found in path.parent.glob(pattern.name) if found.name != path.name]


def _keep_aside(path: Path, attempt: int) -> None:
    if _size(path):
        path.replace(aside_path(path, attempt))


def _size(path: Path) -> int:
    """Return the size of a file in bytes; 0 if it does not exist."""
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
    if (size := _size(path)) < length:
        raise OutputChangedError(f"{path} has {size} bytes and should have {length}")
