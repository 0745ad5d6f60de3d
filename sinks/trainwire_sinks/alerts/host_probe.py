"""What stands around a run on this host: its disks, and the cursors of its other sinks."""

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

LOOK_SECONDS: Final = 2.0
"""How long a look is good for."""


@dataclass(frozen=True)
class HostSnapshot:
    """What was seen at the last look."""

    folder: str = ""
    """The output folder."""
    free: Mapping[str, int] = field(default_factory=dict)
    """Bytes that are free, by folder as rules name it: "" is the output folder. One that cannot be asked is missing."""
    cursors: Mapping[str, Cursor] = field(default_factory=dict)
    """How far the other sinks of this rank have got that write to the output folder."""
    is_known: bool = False
    """Whether there was a look at all."""


class HostProbe:
    """Looks around in the background: a disk that hangs delays nobody.

    Args:
        folder: the output folder.
        rank: whose sinks are looked at.
        name: of the sink that looks; it leaves itself out.
        others: further folders whose disks are looked at.
    """

    def __init__(self, folder: Path, rank: int, name: str, others: Iterable[str] = ()) -> None:
        self.latest = HostSnapshot()
        self._folder, self._rank, self._name = folder, rank, name
        self._others = tuple(others)
        self._looking: asyncio.Task[None] | None = None
        self._looked = -LOOK_SECONDS

    def look(self, run: str) -> None:
        """Begin to look, unless that was done just now or is being done."""
        is_looking = self._looking is not None and not self._looking.done()
        if not is_looking and time.monotonic() - self._looked >= LOOK_SECONDS:
            self._looking = asyncio.create_task(self._look(run))

    async def _look(self, run: str) -> None:
        self.latest = await run_in_background(self._read, run)
        self._looked = time.monotonic()

    def _read(self, run: str) -> HostSnapshot:
        places = {"": self._folder} | {name: Path(name) for name in self._others}
        free = {name: room for name, path in places.items() if (room := _free(path)) is not None}
        cursors = read_cursors(self._folder, self._rank, run)
        return HostSnapshot(
            str(self._folder), free, {name: cursor for name, cursor in cursors if name != self._name}, is_known=True
        )


def _free(folder: Path) -> int | None:
    try:
        return shutil.disk_usage(folder).free
    except OSError:
        return None
