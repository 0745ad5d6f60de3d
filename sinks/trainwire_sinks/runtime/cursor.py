"""How far a sink has got, in a file beside its output."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from trainwire_protocol.errors import CursorFileError
from trainwire_protocol.journal.files import write_atomically
from trainwire_protocol.wire import START, Cursor
from trainwire_sinks.runtime.base import State

KEPT_MARKS: Final = 8
"""How many marks an output can be brought back to without reading the run again."""


@dataclass(frozen=True)
class Savepoint:
    """A place in a run that an output can be brought back to."""

    cursor: Cursor = START
    length: int = 0
    """Of the output, in bytes."""
    state: State = field(default_factory=dict)
    """Of the sink."""


@dataclass(frozen=True)
class Commit:
    """What a sink's output holds, and the marks that a resumed run may bring it back to."""

    run: str | None = None
    """None as long as no event of the run was seen."""
    point: Savepoint = Savepoint()
    marks: tuple[Savepoint, ...] = ()
    """At most `KEPT_MARKS`, the newest last."""


class CursorFile:
    """The file `<output>/.trainwire/<name>-rank<r>.cursor`: a JSON map that `Commit` describes."""

    def __init__(self, folder: Path, name: str, rank: int) -> None:
        self.path = folder / ".trainwire" / f"{name}-rank{rank}.cursor"
        self._rank = rank

    def load(self) -> Commit | None:
        """The last commit; None if there never was one.

        Raises:
            CursorFileError: the file holds something else.
        """
        try:
            fields = json.loads(self.path.read_bytes())
            run = fields["run"]
            if run is not None and not isinstance(run, str):
                raise ValueError("run is no string")
            return Commit(run, _point(fields), tuple(map(_point, fields["marks"])))
        except FileNotFoundError:
            return None
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise CursorFileError(f"{self.path} holds no cursor ({error!r})") from error

    def save(self, commit: Commit) -> None:
        """Put `commit` in the place of the last one."""
        fields = {"run": commit.run, "rank": self._rank, **_fields(commit.point)}
        fields["marks"] = [_fields(mark) for mark in commit.marks]
        write_atomically(self.path, json.dumps(fields).encode())


def _fields(point: Savepoint) -> dict[str, Any]:
    return {**point.cursor._asdict(), "length": point.length, "state": point.state}


def _point(fields: dict[str, Any]) -> Savepoint:
    numbers = [fields["attempt"], fields["seq"], fields["length"]]
    if not all(type(number) is int for number in numbers) or not isinstance(fields["state"], dict):
        raise ValueError("a number or the state is of the wrong type")
    return Savepoint(Cursor(numbers[0], numbers[1]), numbers[2], fields["state"])
