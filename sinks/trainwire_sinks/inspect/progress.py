"""Determines how far the sinks of a run have read, from the cursors beside their outputs."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, Protocol

from trainwire_protocol.errors import CursorFileError, UsageError
from trainwire_protocol.wire import Cursor
from trainwire_sinks.runtime.cursor import CursorFile
from trainwire_sinks.runtime.registry import find_sink
from trainwire_sinks.runtime.sink import Sink

_FILE_NAME: Final = re.compile(r"(.+)-rank(\d+)\.cursor")


class AttemptHead(Protocol):
    """The last events that an attempt has recorded."""

    @property
    def rank(self) -> int:
        """Rank of the attempt."""

    @property
    def attempt(self) -> int:
        """Number of the attempt."""

    @property
    def head(self) -> int:
        """Seq of the attempt's last event."""

    @property
    def heads(self) -> Mapping[str, int]:
        """Seq of the last event of each channel."""


@dataclass(frozen=True)
class SinkProgress:
    """The progress of a sink in its run."""

    sink: str
    rank: int
    output: Path
    """The output folder."""
    cursor: Cursor | None
    """None if the cursor file cannot be read or is empty."""
    behind: int = 0
    """Number of recorded events after the cursor."""
    ahead: int = 0
    """Number of events before the cursor that are not in the record, because the disk has lost journaled events."""

    def as_json(self) -> dict[str, Any]:
        """Return the fields as JSON values."""
        return asdict(self) | {"output": str(self.output), "cursor": self.cursor and self.cursor._asdict()}


def read_progress(run: str, folder: Path, heads: Sequence[AttemptHead]) -> Iterator[SinkProgress]:
    """Yield the progress of every sink of a run that writes to `folder`."""
    for path in sorted((folder / ".trainwire").glob("*.cursor")):
        if match := _FILE_NAME.fullmatch(path.name):
            name, rank = match[1], int(match[2])
            try:
                commit = CursorFile(folder, name, rank).load()
            except (CursorFileError, OSError):
                yield SinkProgress(name, rank, folder, None)
                continue
            if commit and commit.run == run:
                cursor, heads_of_rank = commit.point.cursor, [head for head in heads if head.rank == rank]
                behind = _events_behind(cursor, heads_of_rank, _channels_of(name))
                yield SinkProgress(name, rank, folder, cursor, behind, _events_ahead(cursor, heads_of_rank))


def read_cursors(folder: Path, rank: int, run: str) -> Iterator[tuple[str, Cursor]]:
    """Yield the name and cursor of each sink of a rank that writes to `folder`; unreadable cursors are skipped."""
    for path in sorted((folder / ".trainwire").glob(f"*-rank{rank}.cursor")):
        name = path.name.removesuffix(f"-rank{rank}.cursor")
        with contextlib.suppress(CursorFileError, OSError):
            commit = CursorFile(folder, name, rank).load()
            if commit and commit.run == run:
                yield name, commit.point.cursor


def _events_behind(cursor: Cursor, heads: Sequence[AttemptHead], channels: Collection[str]) -> int:
    """Return the number of recorded events after a cursor, up to the last event on these channels."""
    behind = 0
    for head in heads:
        if head.attempt >= cursor.attempt:
            last = max((seq for channel, seq in head.heads.items() if channel in channels), default=-1)
            behind += max(0, last - (cursor.seq if head.attempt == cursor.attempt else -1))
    return behind


def _events_ahead(cursor: Cursor, heads: Sequence[AttemptHead]) -> int:
    last = next((head.head for head in heads if head.attempt == cursor.attempt), -1)
    return max(0, cursor.seq - last)


def _channels_of(name: str) -> Collection[str]:
    try:
        return find_sink(name).channels | Sink.channels
    except UsageError:  # a sink that was named by its module and is not installed
        return Sink.channels
