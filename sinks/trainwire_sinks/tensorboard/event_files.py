"""The event files of a rank: its own, those of the runs in folders below it, and other files that TensorBoard reads.

The length of the output is that of the rank's own files. The lengths of the others are part of the sink's state. A run
below the rank has one file for each of the rank's own files, with the same number.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Final, NamedTuple

from trainwire_protocol.errors import InvalidEventError
from trainwire_sinks.runtime.output import AppendOutput, SeriesOutput

logger = logging.getLogger("trainwire")

MAX_OPEN_RUNS: Final = 64
"""Maximum number of runs below a rank whose files are open at once."""

MAX_RUNS: Final = 10_000
"""Maximum number of runs below a rank, because the sink's state has the length of each of their files."""

MAX_PART_BYTES: Final = 200
"""Maximum length of a part of a path, in bytes: most file systems allow 255."""

MAX_PATH_BYTES: Final = 1000

_EVENT_FILE: Final = "tfevents"
"""TensorBoard reads files whose names contain it."""


class FilePart(NamedTuple):
    """A part of a file that is not an event file."""

    path: str
    offset: int
    data: bytes


def file_path(path: str) -> str:
    """Return the path of a file below the rank's folder, without empty parts.

    Raises:
        InvalidEventError: it is empty, leads out of the folder, is too long, or is that of an event file.
    """
    parts = _parts(path)
    if not parts or ".." in parts or "\0" in path:
        raise InvalidEventError(f"{path!r:.100} is not a path below the folder of the event files")
    if max(len(part.encode()) for part in parts) > MAX_PART_BYTES or len(path.encode()) > MAX_PATH_BYTES:
        raise InvalidEventError(f"the path {path!r:.60} is too long for a file system")
    if _EVENT_FILE in parts[-1]:
        raise InvalidEventError(f"TensorBoard would read the file {path!r:.100} as an event file")
    return "/".join(parts)


def run_path(run: str) -> str:
    """Return the path of a run below the rank's folder, with what is not valid in a path replaced or cut."""
    parts = [_cut("_" if part == ".." else part, MAX_PART_BYTES) for part in _parts(run.replace("\0", "_"))]
    return _cut("/".join(parts), MAX_PATH_BYTES).rstrip("/") or "_"


def _parts(path: str) -> list[str]:
    return [part for part in path.split("/") if part not in ("", ".")]


def _cut(text: str, size: int) -> str:
    return text.encode()[:size].decode(errors="ignore")


class EventFiles(SeriesOutput):
    """The event files of a rank, and of the runs below it."""

    def __init__(self, folder: Path, pattern: str) -> None:
        super().__init__(folder, pattern)
        self._open: dict[str, AppendOutput] = {}
        """The runs whose files are open, the one that was written last at the end."""
        self._closed: dict[str, int] = {}
        """The lengths of the files of all other runs."""
        self._refused: set[str] = set()

    @property
    def run_lengths(self) -> dict[str, int]:
        """The lengths of the last files of the runs below the rank."""
        return self._closed | {run: file.length for run, file in self._open.items()}

    async def open(self, length: int) -> None:
        """Restore the rank's own files. Those of the runs below it are removed if `length` is 0."""
        await super().open(length)
        if not length:
            await asyncio.to_thread(self._remove_runs)

    async def restore_runs(self, lengths: Mapping[str, int]) -> None:
        """Truncate the files of the runs below the rank to their lengths.

        Raises:
            OutputChangedError: a file is shorter than that, or missing.
        """
        for run, length in lengths.items():
            file = self._file_of(run)
            await file.open(length)
            await file.close()
        self._closed = dict(lengths)

    async def begin_next(self, start: int = 0) -> None:
        """Begin another file, also in each of the runs below the rank."""
        await self._close_runs(keep=0)
        self._closed = {}
        await super().begin_next(start)

    async def write_run(self, run: str, header: bytes, data: bytes) -> None:
        """Append to the file of a run below the rank; a new file begins with `header`."""
        file = self._open.pop(run, None)
        if file is None:
            if run not in self._closed and len(self._open) + len(self._closed) >= MAX_RUNS:
                self._refuse(run, f"there are {MAX_RUNS} runs already")
                return
            try:
                file = await self._open_run(run, header)
            except OSError as error:
                if not isinstance(error, (FileExistsError, NotADirectoryError, IsADirectoryError)):
                    raise
                self._refuse(run, f"its path is that of another file or folder: {error}")
                return
        self._open[run] = file
        await file.write(data)
        await self._close_runs(keep=MAX_OPEN_RUNS)

    async def write_part(self, part: FilePart) -> None:
        """Write a part of another file; one at offset 0 begins the file anew."""
        try:
            if not await asyncio.to_thread(_write_part, self._last.path.parent / part.path, part):
                self._refuse(part.path, "an earlier part of it is missing")
        except (FileExistsError, NotADirectoryError, IsADirectoryError) as error:
            self._refuse(part.path, f"its path is that of another file or folder: {error}")

    async def flush(self) -> None:
        """Write buffered data to all files."""
        await super().flush()
        for file in self._open.values():
            await file.flush()

    async def close(self) -> None:
        """Close all files; buffered data is dropped."""
        await super().close()
        while self._open:
            await self._open.popitem()[1].close()
        self._closed = {}

    async def _open_run(self, run: str, header: bytes) -> AppendOutput:
        file = self._file_of(run)
        length = self._closed.get(run, 0)
        await file.open(length)
        self._closed.pop(run, None)
        if not length:
            await file.write(header)
        return file

    async def _close_runs(self, keep: int) -> None:
        """Close the files of all runs but the `keep` that were written last."""
        for run in list(self._open)[: max(len(self._open) - keep, 0)]:
            file = self._open.pop(run)
            await file.flush()
            self._closed[run] = file.length
            await file.close()

    def _file_of(self, run: str) -> AppendOutput:
        return AppendOutput(self._last.path.parent / run / self._last.path.name)

    def _remove_runs(self) -> None:
        for folder in [self.folder, *self._folders_aside()]:
            for path in folder.glob("*/**/" + self.pattern.format("*")):
                path.unlink()

    def _folders_aside(self) -> list[Path]:
        return [path for path in self.folder.parent.glob(f"{self.folder.name}.attempt-*") if path.is_dir()]

    def _refuse(self, path: str, reason: str) -> None:
        if path not in self._refused:
            self._refused.add(path)
            logger.warning("tensorboard omits %r: %s", path, reason)


def _write_part(path: Path, part: FilePart) -> bool:
    """Write a part of a file; return False if the file ends before it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if not part.offset:
        path.write_bytes(part.data)
        return True
    if not path.exists() or path.stat().st_size < part.offset:
        return False
    with path.open("r+b") as file:
        file.seek(part.offset)
        file.write(part.data)
        file.truncate()
    return True
