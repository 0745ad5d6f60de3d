"""How far the sinks of a run have got, by the cursors beside their outputs."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, Protocol

from trainwire_protocol.errors import CursorFileError, UsageError
from trainwire_protocol.wire import Cursor
from trainwire_sinks.runtime.base import Sink
from trainwire_sinks.runtime.cursor import CursorFile
from trainwire_sinks.runtime.registry import find_sink

_NAME: Final = re.compile(r"(.+)-rank(\d+)\.cursor")


class AttemptHead(Protocol):
    """How far an attempt has been recorded."""

    @property
    def rank(self) -> int:
        """Whose it is."""

    @property
    def attempt(self) -> int:
        """Its number."""

    @property
    def head(self) -> int:
        """Seq of its last event."""

    @property
    def heads(self) -> Mapping[str, int]:
        """For each channel the seq of its last event."""


@dataclass(frozen=True)
class Progress:
    """Where one sink stands in its run."""

    sink: str
    rank: int
    output: Path
    """The output folder."""
    cursor: Cursor | None
    """None if its file cannot be read, or holds none."""
    behind: int = 0
    """Events of the record behind the cursor."""
    ahead: int = 0
    """Events before the cursor that the record does not hold: the disk lost what it had taken."""

    def as_json(self) -> dict[str, Any]:
        """Its fields as JSON can hold them."""
        return asdict(self) | {"output": str(self.output), "cursor": self.cursor and self.cursor._asdict()}


def read_progress(run: str, folder: Path, reports: Sequence[AttemptHead]) -> Iterator[Progress]:
    """The progress of every sink of a run whose output is in `folder`."""
    for path in sorted((folder / ".trainwire").glob("*.cursor")):
        if found := _NAME.fullmatch(path.name):
            name, rank = found[1], int(found[2])
            try:
                commit = CursorFile(folder, name, rank).load()
            except (CursorFileError, OSError):
                yield Progress(name, rank, folder, None)
                continue
            if commit and commit.run == run:
                yield _compare(name, rank, folder, commit.point.cursor, [row for row in reports if row.rank == rank])


def read_cursors(folder: Path, rank: int, run: str) -> Iterator[tuple[str, Cursor]]:
    """The names and cursors of a rank's sinks whose output is in `folder`; those that cannot be read are left out."""
    for path in sorted((folder / ".trainwire").glob(f"*-rank{rank}.cursor")):
        name = path.name.removesuffix(f"-rank{rank}.cursor")
        with contextlib.suppress(CursorFileError, OSError):
            commit = CursorFile(folder, name, rank).load()
            if commit and commit.run == run:
                yield name, commit.point.cursor


def _compare(name: str, rank: int, folder: Path, cursor: Cursor, reports: Sequence[AttemptHead]) -> Progress:
    channels = _channels(name)
    behind = sum(
        max(0, _head(row, channels) - _seq_in(row, cursor)) for row in reports if row.attempt >= cursor.attempt
    )
    heads = [row.head for row in reports if row.attempt == cursor.attempt]
    return Progress(name, rank, folder, cursor, behind, max(0, cursor.seq - (heads[0] if heads else -1)))


def _seq_in(report: AttemptHead, cursor: Cursor) -> int:
    return cursor.seq if report.attempt == cursor.attempt else -1


def _head(report: AttemptHead, channels: Collection[str]) -> int:
    """Seq of the last event that a sink of these channels wants."""
    return max((seq for channel, seq in report.heads.items() if channel in channels), default=-1)


def _channels(name: str) -> Collection[str]:
    try:
        return find_sink(name).channels | Sink.channels
    except UsageError:
        # One that its user named by where it stands.
        return Sink.channels
