"""How the ranks of a run stand beside each other, by the ends of their journals: their states, and who falls behind."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from math import inf
from pathlib import Path
from typing import Final, Literal, TypeAlias

from trainwire_protocol.errors import ProtocolError
from trainwire_protocol.events import Event
from trainwire_protocol.journal.attempts import kept_backwards
from trainwire_protocol.journal.run_folder import Attempt, list_attempts, list_ranks
from trainwire_protocol.journal.tail import batches_backwards, events_of, read_first

State: TypeAlias = Literal["running", "finished", "failed", "interrupted", "died", "unreadable"]

ENDINGS: Final[Mapping[str, State]] = {
    "run/finished": "finished",
    "run/failed": "failed",
    "run/interrupted": "interrupted",
}

WORST_FIRST: Final[Sequence[State]] = ("running", "failed", "died", "unreadable", "interrupted", "finished")
"""What a run is whose ranks differ: as long as one of them runs, so does the run."""

STRAGGLING_SECONDS: Final = 5.0
"""A rank is a straggler once the foremost one, at its mean pace, takes so long for the steps between them. Less may be
nothing but the time between looking at the one and at the other, and at a shared file system's copy."""

OVERDUE: Final = 3.0
"""A rank that has been silent for so many times as long as between its last steps has come to a halt."""

STRAGGLING_STEPS: Final = 2
"""Ranks that train in step differ by one step at most: in which of them the event of a long step came first."""

MAX_BATCHES: Final = 100
"""How far back a rank's steps are looked for."""

MAX_TOLD: Final = 4
"""Ranks that are named on a line."""


@dataclass(frozen=True)
class RankOverview:
    """One rank at a glance."""

    rank: int
    state: State
    """`died`: it has no last event, and nobody records it; `unreadable`: its journal cannot be read."""
    step: int | None = None
    last_event: float | None = None
    """Walltime."""
    behind: int = 0
    """Steps behind the foremost rank, if it is a straggler."""


@dataclass(frozen=True)
class _Place:
    """A rank, with what tells where it is between its events."""

    overview: RankOverview
    step: int = 0
    walltime: float = 0.0
    pace: float = 0.0
    """Steps a second in its last attempt, on average; 0 if that is not known."""
    seconds_apart: float = inf
    """Between its last two events of different steps."""


def read_ranks(folder: Path) -> tuple[RankOverview, ...]:
    """All ranks that a run's folder has, in their order."""
    places = [_read(folder, rank) for rank in list_ranks(folder)]
    foremost = max(places, key=lambda place: place.step, default=None)
    return tuple(replace(place.overview, behind=_behind(place, foremost)) for place in places if foremost)


def state_of_all(ranks: Sequence[RankOverview]) -> State:
    """The state of a run whose ranks these are."""
    states = {rank.state for rank in ranks}
    return next((state for state in WORST_FIRST if state in states), "unreadable")


def state_of(attempts: Sequence[Attempt]) -> State:
    """The state of a rank whose attempts these are."""
    last = attempts[-1] if attempts else None
    batch = next(batches_backwards(last), None) if last else None
    if batch and batch.header.last and (events := events_of(batch)):
        return ENDINGS.get(events[-1].name, "finished")
    return "running" if last and last.is_held() else "died"


def last_event_of(attempts: Sequence[Attempt]) -> Event | None:
    """The last event of a rank that counts."""
    return next((event for batch in kept_backwards(attempts) for event in reversed(events_of(batch))), None)


def describe_ranks(ranks: Sequence[RankOverview]) -> str:
    """How many there are, the stragglers among them, and those that are in another state than the run."""
    usual = state_of_all(ranks)
    odd = [rank for rank in ranks if rank.behind or rank.state != usual]
    odd.sort(key=lambda rank: (-rank.behind, rank.rank))
    told = [f"rank {rank.rank} {describe_lag(rank) or rank.state}" for rank in odd[:MAX_TOLD]]
    told += [f"{len(odd) - MAX_TOLD} more"] if len(odd) > MAX_TOLD else []
    return f"{len(ranks)}" + (f": {', '.join(told)}" if told else "")


def describe_lag(rank: RankOverview) -> str:
    """How far a straggler is behind; nothing for any other rank."""
    return f"{rank.behind:,} steps behind" if rank.behind else ""


def _read(folder: Path, rank: int) -> _Place:
    try:
        attempts = list_attempts(folder, rank)
        last, before = _last_steps(attempts)
        first = read_first(attempts[-1]) if attempts else None
        overview = RankOverview(rank, state_of(attempts), last and last.step, last and last.walltime)
    except (OSError, ProtocolError):
        return _Place(RankOverview(rank, "unreadable"))
    if last is None:
        return _Place(overview)
    begun = events_of(first)[0] if first and events_of(first) else last
    apart = last.walltime - before.walltime if before else inf
    return _Place(overview, last.step, last.walltime, _pace(begun, last), apart)


def _last_steps(attempts: Sequence[Attempt]) -> tuple[Event | None, Event | None]:
    """The last event of a rank that counts, and the last one before it that is of another step."""
    last: Event | None = None
    for batch in islice(kept_backwards(attempts), MAX_BATCHES):
        for event in reversed(events_of(batch)):
            last = last or event
            if event.step != last.step:
                return last, event
    return last, None


def _pace(first: Event, last: Event) -> float:
    seconds = last.walltime - first.walltime
    return max(0.0, (last.step - first.step) / seconds) if seconds > 0 else 0.0


def _behind(place: _Place, foremost: _Place) -> int:
    """How many steps a rank is behind, if it is a straggler."""
    silence = max(0.0, foremost.walltime - place.walltime)
    # A rank that records but now and then is not behind for that: it is where the others were at its last event.
    is_due = silence > OVERDUE * place.seconds_apart
    behind = foremost.step - place.step - (0 if is_due else round(foremost.pace * silence))
    least = max(STRAGGLING_STEPS, STRAGGLING_SECONDS * foremost.pace)
    return behind if place.overview.state == "running" and foremost.pace and behind >= least else 0
