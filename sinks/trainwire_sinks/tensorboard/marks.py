"""Where a run's marks stand in its event files, so that a resumed run is shown without what it has superseded.

TensorBoard's Python loader, when it comes to a restart, forgets all that has a certain step or a later one. Its fast
loader knows no restart: of each tag it forgets, when it comes to a step that is not later than the one before, all from
that step on. So both show what is right if a new file takes back everything, and repeats what counts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final, NamedTuple

from trainwire_protocol.journal.attempts import NOTHING
from trainwire_protocol.wire import Cursor

KEPT_MARKS: Final = 32
"""Latest marks that are remembered; a run that is resumed from an earlier one is shown by its steps alone."""

MAX_REPEATED: Final = 64 << 20
"""Most bytes that a new file repeats, unless more have to be: only the last step then, as long as steps have risen."""

LOWEST: Final = -(2**63)
HIGHEST: Final = 2**63 - 1

Range = tuple[int, int]
"""The bytes from one place in the files up to another; all in one file."""


@dataclass
class Mark:
    """A mark, and what the files showed at it."""

    attempt: int
    seq: int
    step: int
    begin: int
    """Where the last records begin that have its step."""
    highest: int
    """Highest step of the records before these."""
    lowest: int
    """Lowest step of all records since the mark."""
    ranges: Sequence[Range]
    """The records that count at the mark, in their order. The last range ends with it."""


class Seam(NamedTuple):
    """How a new file begins."""

    first_step: int
    """The first step that a loader forgets."""
    before: Sequence[Range] | None
    """What it does not forget, of earlier files; None if that is not known."""
    repeated: Sequence[Range]
    """What it forgets and still counts."""
    mark: Mark | None


class Marks:
    """The marks of one rank's event files.

    Args:
        state: what `state` gave when the files were committed; empty if there are none.
    """

    def __init__(self, state: Mapping[str, Any]) -> None:
        self._marks = [Mark(**mark) for mark in state.get("marks", ())]
        self._before: Sequence[Range] | None = state.get("before", ())
        self._start: int = state.get("start", 0)
        self._step: int = state.get("step", LOWEST)
        self._begin: int = state.get("begin", 0)
        self._highest: int = state.get("highest", LOWEST)

    def state(self) -> dict[str, Any]:
        """What has to be known to go on, for JSON."""
        return {
            "marks": [asdict(mark) for mark in self._marks],
            "before": self._before, "start": self._start,
            "step": self._step, "begin": self._begin, "highest": self._highest,
        }  # fmt: skip

    def wrote(self, step: int, place: int) -> None:
        """Take note of a record of this step, which begins at this place."""
        if step != self._step:
            self._highest = max(self._highest, self._step)
            self._step, self._begin = step, place
            for mark in self._marks:
                mark.lowest = min(mark.lowest, step)

    def add(self, cursor: Cursor, step: int, end: int) -> None:
        """Remember a mark behind which the next record is at `end`."""
        self.wrote(step, end)
        if self._before is not None:
            ranges = [*self._before, (self._start, end)]
            mark = Mark(cursor.attempt, cursor.seq, step, self._begin, self._highest, HIGHEST, ranges)
            self._marks = [*self._marks, mark][-KEPT_MARKS:]

    def seam(self, origin: Cursor, from_step: int) -> Seam:
        """How the file of a run begins that is resumed from `origin`, at `from_step`."""
        if origin == NOTHING:
            return Seam(LOWEST, (), (), None)
        mark = next((mark for mark in self._marks if (mark.attempt, mark.seq) == origin), None)
        if mark is None:
            # One step later than the last that is kept: points of that step are rather shown twice than not at all.
            return Seam(from_step + 1, None, (), None)
        have_risen = mark.highest < mark.step <= mark.lowest
        if have_risen and sum(end - begin for begin, end in mark.ranges) > MAX_REPEATED:
            *before, (start, end) = mark.ranges
            return Seam(mark.step, [*before, (start, mark.begin)], [(mark.begin, end)], mark)
        return Seam(LOWEST, (), mark.ranges, mark)

    def go_on(self, seam: Seam, start: int, end: int) -> None:
        """Take note that a file has begun, with what is repeated from `start` to `end`."""
        self._before, self._start = seam.before, start
        self._step, self._begin, self._highest = LOWEST, start, LOWEST
        if seam.mark is not None:
            last = seam.mark.ranges[-1][1] - seam.mark.begin
            self._step, self._begin, self._highest = seam.mark.step, end - last, seam.mark.highest
        for mark in self._marks:
            if seam.mark is None or (mark.attempt, mark.seq) > (seam.mark.attempt, seam.mark.seq):
                # What it has is superseded: if it counts again some day, it has to be repeated as a whole.
                mark.highest = HIGHEST
