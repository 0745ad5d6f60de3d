"""Where an attempt begins: what it keeps of the run in its folder, and the message about what it supersedes."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

from trainwire_protocol.errors import ProtocolError, UsageError
from trainwire_protocol.journal.attempts import NOTHING, RunEnd, find_end, find_mark, kept_ranges, read_resumed_from
from trainwire_protocol.journal.run_folder import Attempt, list_attempts, list_ranks
from trainwire_protocol.wire import Cursor

_log = logging.getLogger("trainwire")


class Origin(NamedTuple):
    """The position up to which an attempt keeps what was recorded before, and its step."""

    position: Cursor = NOTHING
    step: int = 0

    def fields(self) -> dict[str, Any]:
        """Return the fields of `run/resumed`."""
        return {"from": None if self.position == NOTHING else self.position._asdict(), "from_step": self.step}


NEW_START: Final = Origin()
"""Keeps nothing."""


def find_state(run_folder: Path, rank: int, state: Mapping[str, Any]) -> Origin:
    """Return the position of the mark that a state names.

    Raises:
        UsageError: the folder does not contain the mark.
    """
    run, number, mark, step = (state.get(field) for field in ("run", "attempt", "mark", "step"))
    attempts = list_attempts(run_folder, rank)
    if not attempts or run != attempts[0].run:
        found = f"run {attempts[0].run!r}" if attempts else "no run"
        raise UsageError(f"the state belongs to run {run!r}, but {run_folder} contains {found}")
    marked = next((attempt for attempt in attempts if attempt.number == number), None)
    if marked is None or not isinstance(mark, int) or not isinstance(step, int):
        raise UsageError(f"the state belongs to mark {mark!r} of attempt {number!r}, which {run_folder} lacks")
    return Origin(find_mark(marked, mark), step)


def find_append(run_folder: Path, attempt: Attempt) -> Origin:
    """Return the end of what was recorded before an attempt, from which the attempt continues.

    Raises:
        UsageError: the journal cannot be read.
    """
    try:
        end = find_end(_before(run_folder, attempt))
    except (OSError, ProtocolError) as error:
        raise UsageError(
            f"nothing can be added to the run in {run_folder}, as its journal cannot be read: {error}"
        ) from error
    return Origin(end.cursor, end.step) if end else NEW_START


def report_superseded(run_folder: Path, attempt: Attempt, origin: Origin) -> None:
    """Log what an attempt supersedes, how to read that, and what else could be done; once for all ranks."""
    earlier = _before(run_folder, attempt)
    first = next((rank for rank in list_ranks(run_folder) if list_attempts(run_folder, rank)), attempt.rank)
    if not earlier or attempt.rank != first:
        return
    try:
        end = find_end(earlier)
        if end is None or origin.position >= end.cursor:
            return
        if origin.position.attempt in _kept(earlier):
            _log.info("%s: %s", run_folder, _describe_resumption(end, origin))
            return
        if end.ending is None and earlier[-1].is_held():
            end = end._replace(ending="is taken over")
    except (OSError, ProtocolError) as error:
        _log.warning("%s: its journal cannot be read (%s)", run_folder, error)
        end = RunEnd(Cursor(earlier[-1].number, -1), 0, "unreadable")
    _log.warning("%s: %s", run_folder, _describe_start(end, origin))


def _before(run_folder: Path, attempt: Attempt) -> Sequence[Attempt]:
    return [found for found in list_attempts(run_folder, attempt.rank) if found.number < attempt.number]


def _kept(attempts: Sequence[Attempt]) -> Mapping[int, int | None]:
    return kept_ranges({attempt.number: read_resumed_from(attempt) for attempt in attempts})


def _describe_start(end: RunEnd, origin: Origin) -> str:
    number = end.cursor.attempt
    start = "starts anew" if origin == NEW_START else f"continues attempt {origin.position.attempt}"
    return (
        f"this folder holds a run already, whose attempt {number} {_describe_end(end)}. This training {start} and "
        f"supersedes that attempt. Nothing is deleted: read it with --attempt {number} (export, tail, compare, replay, "
        f"watch, runs), and in the outputs that sinks keep aside, such as loss.attempt-{number}.tsv. Other choices: "
        "append=True adds to the run, state= (ModelTrainer: resume=True) continues it from a checkpoint, and another "
        "folder leaves it alone"
    )


def _describe_resumption(end: RunEnd, origin: Origin) -> str:
    position, number = origin.position, end.cursor.attempt
    return (
        f"continues from step {origin.step} of attempt {position.attempt}, and supersedes what was recorded after it: "
        f"attempt {number} {_describe_end(end)}, as --attempt {number} shows"
    )


def _describe_end(end: RunEnd) -> str:
    return f"{end.ending} at step {end.step}" if end.ending else f"stopped at step {end.step} without reporting its end"
