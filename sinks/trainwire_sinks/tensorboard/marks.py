"""Keeps track of a run's marks in its event files, so that a resumed run is shown without superseded points.

TensorBoard has two loaders. At the start of a session the Python loader discards all points from a given step on. The
fast loader ignores session starts, and discards points of a tag only when the step of the tag does not increase: all
points from the new step on. Both show the right points if a new file discards everything and repeats what is kept.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final, NamedTuple

from trainwire_protocol.events import HIGHEST_STEP, LOWEST_STEP
from trainwire_protocol.journal.attempts import NOTHING
from trainwire_protocol.wire import Cursor

KEPT_MARKS: Final = 32
"""Number of latest marks that are remembered. A run resumed from an earlier one is restored by step alone."""

MAX_REPEATED: Final = 64 << 20
"""Bytes above which a new file repeats only the last step, provided that steps have increased."""

Range = tuple[int, int]
"""Begin and end of a range of bytes; both are in the same file."""


@dataclass
class Mark:
    """A mark, and what the files show at it."""

    attempt: int
    seq: int
    step: int
    begin: int
    """Position of the first of the last records, those with the mark's step."""
    highest: int
    """Highest step of the records before `begin`."""
    lowest: int
    """Lowest step of all records after the mark."""
    ranges: Sequence[Range]
    """The records kept at the mark, in their order. The last range ends at the mark."""


class FileStart(NamedTuple):
    """How a new file begins."""

    first_step: int
    """The first step that the Python loader discards."""
    earlier: Sequence[Range] | None
    """The records of earlier files that it does not discard; None if they are unknown."""
    repeated: Sequence[Range]
    """The records that it discards although they are kept, so that the new file repeats them."""
    mark: Mark | None


class Marks:
    """The marks of one rank's event files.

    Args:
        state: what `state` returned at the last commit; empty if there is none.
    """

    def __init__(self, state: Mapping[str, Any]) -> None:
        self._marks = [Mark(**mark) for mark in state.get("marks", ())]
        self._earlier: Sequence[Range] | None = state.get("before", ())
        self._start: int = state.get("start", 0)
        self._step: int = state.get("step", LOWEST_STEP)
        self._begin: int = state.get("begin", 0)
        self._highest: int = state.get("highest", LOWEST_STEP)

    def state(self) -> dict[str, Any]:
        """Return what is needed to resume, as a map for JSON."""
        return {
            "marks": [asdict(mark) for mark in self._marks],
            "before": self._earlier, "start": self._start,
            "step": self._step, "begin": self._begin, "highest": self._highest,
        }  # fmt: skip

    def add_record(self, step: int, position: int) -> None:
        """Note that a record of this step begins at `position`."""
        if step != self._step:
            self._highest = max(self._highest, self._step)
            self._step, self._begin = step, position
            for mark in self._marks:
                mark.lowest = min(mark.lowest, step)

    def add_mark(self, cursor: Cursor, step: int, end: int) -> None:
        """Note a mark; the next record begins at `end`."""
        self.add_record(step, end)
        if self._earlier is not None:
            ranges = [*self._earlier, (self._start, end)]
            mark = Mark(cursor.attempt, cursor.seq, step, self._begin, self._highest, HIGHEST_STEP, ranges)
            self._marks = [*self._marks, mark][-KEPT_MARKS:]

    def file_start(self, origin: Cursor, from_step: int) -> FileStart:
        """Return how the next file begins if the run was resumed from `origin`, at `from_step`."""
        if origin == NOTHING:
            return FileStart(LOWEST_STEP, (), (), None)
        mark = next((mark for mark in self._marks if (mark.attempt, mark.seq) == origin), None)
        if mark is None:
            # One after the last kept step: it is better to show points of that step twice than to lose them.
            return FileStart(from_step + 1, None, (), None)
        have_increased = mark.highest < mark.step <= mark.lowest
        if have_increased and sum(end - begin for begin, end in mark.ranges) > MAX_REPEATED:
            *earlier, (start, end) = mark.ranges
            return FileStart(mark.step, [*earlier, (start, mark.begin)], [(mark.begin, end)], mark)
        return FileStart(LOWEST_STEP, (), mark.ranges, mark)

    def begin_file(self, file_start: FileStart, start: int, end: int) -> None:
        """Note that a file was begun whose repeated records are from `start` to `end`."""
        self._earlier, self._start = file_start.earlier, start
        self._step, self._begin, self._highest = LOWEST_STEP, start, LOWEST_STEP
        resumed = file_start.mark
        if resumed is not None:
            last_step_bytes = resumed.ranges[-1][1] - resumed.begin
            self._step, self._begin, self._highest = resumed.step, end - last_step_bytes, resumed.highest
        for mark in self._marks:
            if resumed is None or (mark.attempt, mark.seq) > (resumed.attempt, resumed.seq):
                # The mark is superseded now. If the run is resumed from it later, everything must be repeated.
                mark.highest = HIGHEST_STEP
