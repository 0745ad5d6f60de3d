"""The host probe: reads the free disk space and the cursors of the other sinks on this host."""

from __future__ import annotations

import asyncio
import shutil
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from trainwire_protocol.journal.files import run_in_background
from trainwire_protocol.wire import Cursor
from trainwire_sinks.inspect.progress import read_cursors

REFRESH_SECONDS: Final = 2.0
"""The shortest time between two readings."""


@dataclass(frozen=True)
class HostSnapshot:
    """The result of the last reading."""

    folder: str = ""
    """The output folder."""
    free: Mapping[str, int] = field(default_factory=dict)
    """Free bytes, by folder as rules name it; "" is the output folder. A folder that cannot be read is missing."""
    cursors: Mapping[str, Cursor] = field(default_factory=dict)
    """The cursors of the other sinks of this rank that write to the output folder."""
    is_known: bool = False
    """Whether anything has been read yet."""


class HostProbe:
    """Reads the host's state in the background, so that a disk that hangs delays nothing.

    Args:
        folder: the output folder.
        rank: the rank whose sinks are read.
        name: the sink that uses the probe; its own cursor is left out.
        extra_folders: further folders whose disks are read.
    """

    def __init__(self, folder: Path, rank: int, name: str, extra_folders: Iterable[str] = ()) -> None:
        self.snapshot = HostSnapshot()
        self._folder, self._rank, self._name = folder, rank, name
        self._disks = {"": folder} | {extra: Path(extra) for extra in extra_folders}
        self._task: asyncio.Task[None] | None = None
        self._last_read = -REFRESH_SECONDS

    def refresh(self, run: str) -> None:
        """Start reading, unless a reading is in progress or is recent."""
        is_reading = self._task is not None and not self._task.done()
        if not is_reading and time.monotonic() - self._last_read >= REFRESH_SECONDS:
            self._task = asyncio.create_task(self._refresh(run))

    async def _refresh(self, run: str) -> None:
        self.snapshot = await run_in_background(self._read, run)
        self._last_read = time.monotonic()

    def _read(self, run: str) -> HostSnapshot:
        free = {name: space for name, path in self._disks.items() if (space := _free_bytes(path)) is not None}
        cursors = read_cursors(self._folder, self._rank, run)
        return HostSnapshot(
            str(self._folder), free, {name: cursor for name, cursor in cursors if name != self._name}, is_known=True
        )


def _free_bytes(folder: Path) -> int | None:
    try:
        return shutil.disk_usage(folder).free
    except OSError:
        return None
