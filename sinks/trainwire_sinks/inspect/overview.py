"""Summarizes a run by reading only the beginning and the end of its journal."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from trainwire_protocol.errors import ProtocolError
from trainwire_protocol.events import Event
from trainwire_protocol.journal.attempts import LATEST, kept_backwards
from trainwire_protocol.journal.run_folder import Attempt, list_attempts, list_ranks, read_run_name
from trainwire_protocol.journal.tail import events_of, read_first, read_head
from trainwire_sinks.inspect.progress import SinkProgress, read_progress
from trainwire_sinks.inspect.ranks import RankOverview, State, read_ranks, state_of_all

LOOK_BACK_BYTES: Final = 64 << 20
"""How far from an attempt's end to search for lifecycle events, in bytes of its journal: over a million scalars."""

COMPARISONS: Final = frozenset({"epoch/evaluated", "epoch/finished"})
"""The lifecycle events that report the best evaluation so far."""


@dataclass(frozen=True)
class Best:
    """The best epoch so far."""

    epoch: int | None
    metric: str
    score: float


@dataclass(frozen=True)
class RunOverview:
    """A run at a glance. All fields but `state`, `ranks` and `sinks` are those of its first rank."""

    folder: Path
    run: str
    state: State
    """`running` while any of its ranks is; the other states are those of a rank."""
    epoch: int | None = None
    """The current epoch, or the last one."""
    max_epochs: int | None = None
    step: int | None = None
    best: Best | None = None
    """None if there is none, or if it was recorded more than `LOOK_BACK_BYTES` before the end."""
    started: float | None = None
    """Walltime of the first event, in seconds since the epoch."""
    last_event: float | None = None
    """Walltime of the last event, in seconds since the epoch."""
    attempts: int = 0
    ranks: tuple[RankOverview, ...] = ()
    sinks: tuple[SinkProgress, ...] = ()
    """The sinks that write to the run's folder."""


def find_runs(root: Path) -> Iterator[Path]:
    """Yield the folders of all runs under `root`, itself included, sorted by path; hidden folders are skipped."""
    for place, folders, _ in os.walk(root):
        folders[:] = sorted(name for name in folders if name != "journal" and not name.startswith("."))
        if read_run_name(Path(place)) is not None:
            yield Path(place)


def has_attempt(folder: Path, attempt: int) -> bool:
    """Return whether any rank of the run in a folder has an attempt of this number."""
    ranks = list_ranks(folder)
    return any(found.number == attempt for rank in ranks for found in list_attempts(folder, rank))


def read_overview(folder: Path, attempt: int = LATEST) -> RunOverview:
    """Return the overview of the run in a folder; its state is `unreadable` if its journal cannot be read.

    Args:
        folder: the run's folder.
        attempt: show the run as it stood when this attempt ended, without the sinks, which may have read more.

    Raises:
        ValueError: the folder contains no run.
    """
    run, ranks = read_run_name(folder), list_ranks(folder)
    if run is None:
        raise ValueError(f"there is no run in {folder}")
    try:
        return _read(folder, run, ranks, attempt)
    except (OSError, ProtocolError):
        return RunOverview(folder, run, "unreadable", ranks=tuple(RankOverview(rank, "unreadable") for rank in ranks))


def _read(folder: Path, run: str, ranks: Sequence[int], attempt: int) -> RunOverview:
    recorded = list_attempts(folder, ranks[0]) if ranks else []
    attempts = [found for found in recorded if found.number <= attempt]
    first = read_first(attempts[0]) if attempts else None
    first_events = events_of(first) if first else ()
    overviews = read_ranks(folder, attempt)
    shown = overviews[0] if overviews else RankOverview(0, "unreadable")
    started = next(_lifecycle_events(attempts, "epoch/started", {"epoch/started"}), None)
    compared = next(_lifecycle_events(attempts, "epoch/", COMPARISONS), None)
    return RunOverview(
        folder,
        run,
        state_of_all(overviews),
        epoch=max((epoch for event in (started, compared) if (epoch := _int_field(event, "epoch"))), default=None),
        max_epochs=_int_field(started, "max_epochs"),
        step=shown.step,
        best=_best_of_epoch(compared) or _best_saved(attempts),
        started=first_events[0].walltime if first_events else None,
        last_event=shown.last_event,
        attempts=len(attempts),
        ranks=overviews,
        sinks=_read_sinks(folder, run, ranks) if attempt == LATEST else (),
    )


def _read_sinks(folder: Path, run: str, ranks: Sequence[int]) -> tuple[SinkProgress, ...]:
    heads = [read_head(attempt) for rank in ranks for attempt in list_attempts(folder, rank)]
    return tuple(read_progress(run, folder, heads))


def _lifecycle_events(attempts: Sequence[Attempt], beginning: str, names: Set[str]) -> Iterator[Event]:
    """Yield the lifecycle events of these names that are not superseded, the last one first.

    Args:
        beginning: what all of the names begin with.
    """
    for batch in kept_backwards(attempts, beginning.encode(), LOOK_BACK_BYTES):
        yield from (event for event in reversed(events_of(batch)) if event.type == "lifecycle" and event.name in names)


def _int_field(event: Event | None, field: str) -> int | None:
    value = event.value.get(field) if event else None
    return value if type(value) is int else None


def _best_of_epoch(compared: Event | None) -> Best | None:
    """Return the best epoch that the last event about an evaluation reports."""
    fields = compared.value.get("best") if compared else None
    return _parse_best(fields) if isinstance(fields, Mapping) else None


def _best_saved(attempts: Sequence[Attempt]) -> Best | None:
    """Return the best epoch that the last checkpoint of kind `best` reports, for loops without `epoch/finished`."""
    for event in _lifecycle_events(attempts, "checkpoint/saved", {"checkpoint/saved"}):
        if event.value.get("kind") == "best" and (best := _parse_best(event.value)):
            return best
    return None


def _parse_best(fields: Mapping[str, Any]) -> Best | None:
    metric, score, epoch = fields.get("metric"), fields.get("score"), fields.get("epoch")
    if not isinstance(metric, str) or not isinstance(score, (int, float)):
        return None
    return Best(epoch if type(epoch) is int else None, metric, score)
