"""Compares the ranks of a run by the ends of their journals: their states, and which of them are stragglers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import inf
from pathlib import Path
from typing import Final, Literal, TypeAlias

from trainwire_protocol.errors import ProtocolError
from trainwire_protocol.events import Event
from trainwire_protocol.journal.attempts import LATEST, last_events
from trainwire_protocol.journal.run_folder import Attempt, list_attempts, list_ranks
from trainwire_protocol.journal.tail import batches_backwards, ending_in, events_of, read_first

State: TypeAlias = Literal["running", "finished", "failed", "interrupted", "died", "unreadable"]

ENDINGS: Final[Mapping[str, State]] = {
    "run/finished": "finished",
    "run/failed": "failed",
    "run/interrupted": "interrupted",
}

PRECEDENCE: Final[Sequence[State]] = ("running", "failed", "died", "unreadable", "interrupted", "finished")
"""The state of a run is the first of these that any of its ranks has."""

STRAGGLING_SECONDS: Final = 5.0
"""A rank is a straggler if the foremost rank, at its mean pace, takes at least this long for the steps between them.
Smaller differences may come from reading the journals one after the other, or from a shared file system's cache."""

OVERDUE_FACTOR: Final = 3.0
"""A rank has stopped if it has been silent for this many times the interval between its last two steps."""

STRAGGLING_STEPS: Final = 2
"""Ranks that train in lockstep differ by up to one step in what they have recorded."""

MAX_LISTED: Final = 4
"""Maximum number of ranks that are listed on a line."""


@dataclass(frozen=True)
class RankOverview:
    """One rank at a glance."""

    rank: int
    state: State
    """`died`: it has no last event, and no process records it; `unreadable`: its journal cannot be read."""
    step: int | None = None
    last_event: float | None = None
    """Walltime in seconds since the epoch."""
    behind: int = 0
    """Steps behind the foremost rank, if it is a straggler."""


@dataclass(frozen=True)
class _Position:
    """A rank's last step, and how fast it trains."""

    overview: RankOverview
    step: int = 0
    walltime: float = 0.0
    steps_per_second: float = 0.0
    """Mean over the rank's last attempt; 0 if it is unknown."""
    step_seconds: float = inf
    """Time between the rank's last two recorded steps."""


def read_ranks(folder: Path, attempt: int = LATEST) -> tuple[RankOverview, ...]:
    """Return all ranks of the run in a folder, in order, as they were when an attempt ended."""
    positions = [_read_position(folder, rank, attempt) for rank in list_ranks(folder)]
    if not positions:
        return ()
    foremost = max(positions, key=lambda position: position.step)
    return tuple(replace(position.overview, behind=_steps_behind(position, foremost)) for position in positions)


def state_of_all(ranks: Sequence[RankOverview]) -> State:
    """Return the state of a run that has these ranks."""
    states = {rank.state for rank in ranks}
    return next((state for state in PRECEDENCE if state in states), "unreadable")


def state_of(attempts: Sequence[Attempt]) -> State:
    """Return the state of a rank that has these attempts."""
    last = attempts[-1] if attempts else None
    ending = ending_in(next(batches_backwards(last), None)) if last else None
    if ending is not None:
        return ENDINGS.get(ending.name, "finished")
    return "running" if last and last.is_held() else "died"


def describe_ranks(ranks: Sequence[RankOverview]) -> str:
    """Return the number of ranks, the stragglers, and the ranks whose state differs from the run's, on one line."""
    state = state_of_all(ranks)
    notable = [rank for rank in ranks if rank.behind or rank.state != state]
    notable.sort(key=lambda rank: (-rank.behind, rank.rank))
    listed = [f"rank {rank.rank} {describe_lag(rank) or rank.state}" for rank in notable[:MAX_LISTED]]
    listed += [f"{len(notable) - MAX_LISTED} more"] if len(notable) > MAX_LISTED else []
    return f"{len(ranks)}" + (f": {', '.join(listed)}" if listed else "")


def describe_lag(rank: RankOverview) -> str:
    """Return how far a straggler is behind; empty for any other rank."""
    return f"{rank.behind:,} steps behind" if rank.behind else ""


def _read_position(folder: Path, rank: int, attempt: int) -> _Position:
    try:
        attempts = [found for found in list_attempts(folder, rank) if found.number <= attempt]
        last, reached, before = _last_steps(attempts)
        batch = read_first(attempts[-1]) if attempts else None
        overview = RankOverview(rank, state_of(attempts), reached and reached.step, last and last.walltime)
    except (OSError, ProtocolError):
        return _Position(RankOverview(rank, "unreadable"))
    if last is None or reached is None:
        return _Position(overview)
    first = events_of(batch)[0] if batch and events_of(batch) else last
    seconds = last.walltime - first.walltime
    steps_per_second = max(0.0, (reached.step - first.step) / seconds) if seconds > 0 else 0.0
    step_seconds = reached.walltime - before.walltime if before else inf
    return _Position(overview, reached.step, last.walltime, steps_per_second, step_seconds)


def _last_steps(attempts: Sequence[Attempt]) -> tuple[Event | None, Event | None, Event | None]:
    """Return the last event of a rank, the last one of its largest step, and the last one of the step before that."""
    last: Event | None = None
    reached: Event | None = None
    before: Event | None = None
    for event in last_events(attempts):
        last = last or event
        if reached is None or event.step > reached.step:
            reached, before = event, None
        elif before is None and event.step < reached.step:
            before = event
    return last, reached, before


def _steps_behind(position: _Position, foremost: _Position) -> int:
    """Return how many steps a rank is behind if it is a straggler, and 0 otherwise."""
    silence = max(0.0, foremost.walltime - position.walltime)
    # A rank that records seldom is compared with where the foremost rank was at its last event.
    has_stopped = silence > OVERDUE_FACTOR * position.step_seconds
    expected = 0 if has_stopped else round(foremost.steps_per_second * silence)
    behind = foremost.step - position.step - expected
    least = max(STRAGGLING_STEPS, STRAGGLING_SECONDS * foremost.steps_per_second)
    is_running = position.overview.state == "running"
    return behind if is_running and foremost.steps_per_second and behind >= least else 0
