"""An output of several files, of which only the last grows."""

from __future__ import annotations

import asyncio
from pathlib import Path

from trainwire_sinks.output import BUFFER_BYTES, AppendOutput, OutputChangedError, size_of


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
