"""The position of a sink in its run, stored in a file beside its output."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from trainwire_protocol.errors import CursorFileError
from trainwire_protocol.journal.files import write_atomically
from trainwire_protocol.wire import START, Cursor
from trainwire_sinks.runtime.sink import State

KEPT_MARKS: Final = 8
"""Number of marks that an output can be rolled back to without reading the run again."""


@dataclass(frozen=True)
class Savepoint:
    """A position in a run that an output can be rolled back to."""

    cursor: Cursor = START
    length: int = 0
    """Length of the output, in bytes."""
    state: State = field(default_factory=dict)
    """State of the sink."""


@dataclass(frozen=True)
class Commit:
    """The position of a sink's output, and the marks that the output can be rolled back to when the run is resumed."""

    run: str | None = None
    """Name of the run; None until it is known."""
    point: Savepoint = Savepoint()
    marks: tuple[Savepoint, ...] = ()
    """At most `KEPT_MARKS`, in order."""
    start: int = 0
    """The attempt whose new start the output begins with."""
    ended: int | None = None
    """The attempt as whose output the file on disk must be kept aside; None once that is done."""


class CursorFile:
    """The file `<output>/.trainwire/<name>-rank<r>.cursor`, which holds the last `Commit` as JSON."""

    def __init__(self, folder: Path, name: str, rank: int) -> None:
        self.path = folder / ".trainwire" / f"{name}-rank{rank}.cursor"
        self._rank = rank

    def load(self) -> Commit | None:
        """Return the last commit; None if there is none.

        Raises:
            CursorFileError: the file does not hold a cursor.
        """
        try:
            fields = json.loads(self.path.read_bytes())
            run = fields["run"]
            if run is not None and not isinstance(run, str):
                raise ValueError("run is not a string")
            start, ended = fields.get("start", 0), fields.get("ended")
            if type(start) is not int or type(ended) not in (int, type(None)):
                raise ValueError("the number of an attempt is not an integer")
            return Commit(run, _from_json(fields), tuple(map(_from_json, fields["marks"])), start, ended)
        except FileNotFoundError:
            return None
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise CursorFileError(f"{self.path} does not hold a cursor ({error!r})") from error

    def save(self, commit: Commit) -> None:
        """Replace the last commit, atomically."""
        fields = {"run": commit.run, "rank": self._rank, **_to_json(commit.point)}
        fields |= {"marks": [_to_json(mark) for mark in commit.marks], "start": commit.start, "ended": commit.ended}
        write_atomically(self.path, json.dumps(fields).encode())


def _to_json(point: Savepoint) -> dict[str, Any]:
    return {**point.cursor._asdict(), "length": point.length, "state": point.state}


def _from_json(fields: dict[str, Any]) -> Savepoint:
    numbers = [fields["attempt"], fields["seq"], fields["length"]]
    if not all(type(number) is int for number in numbers) or not isinstance(fields["state"], dict):
        raise ValueError("a number or the state has the wrong type")
    return Savepoint(Cursor(numbers[0], numbers[1]), numbers[2], fields["state"])
