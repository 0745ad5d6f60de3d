"""What there is to say of a run at a glance, from the ends of its journal: however long it is, it is not read whole."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from trainwire_protocol.errors import ProtocolError
from trainwire_protocol.events import Event
from trainwire_protocol.journal.attempts import kept_backwards
from trainwire_protocol.journal.run_folder import Attempt, list_attempts, list_ranks, read_run_name
from trainwire_protocol.journal.tail import events_of, read_first, read_head
from trainwire_sinks.inspect.progress import Progress, read_progress
from trainwire_sinks.inspect.ranks import RankOverview, State, last_event_of, read_ranks, state_of_all

LOOK_BACK_BYTES: Final = 64 << 20
"""How far from an attempt's end epochs are looked for, in bytes of its journal: more than a million scalars."""


@dataclass(frozen=True)
class Best:
    """The best epoch so far."""

    epoch: int | None
    metric: str
    score: float


@dataclass(frozen=True)
class RunOverview:
    """A run at a glance; all but its state, ranks and sinks is of its first rank."""

    folder: Path
    run: str
    state: State
    """`running` as long as one of its ranks is; `died` and `unreadable` as of a rank."""
    epoch: int | None = None
    """The epoch that it is in, or that it ended in."""
    max_epochs: int | None = None
    step: int | None = None
    best: Best | None = None
    """None as well if it was told too far from the end: see `LOOK_BACK_BYTES`."""
    started: float | None = None
    """Walltime of the first event."""
    last_event: float | None = None
    """Walltime of the last one."""
    attempts: int = 0
    ranks: tuple[RankOverview, ...] = ()
    sinks: tuple[Progress, ...] = ()
    """Those whose output is in the run's folder."""


def find_runs(root: Path) -> Iterator[Path]:
    """The folders of all runs under `root`, itself included, in the order of their paths, but for hidden ones."""
    for place, folders, _ in os.walk(root):
        folders[:] = sorted(name for name in folders if name != "journal" and not name.startswith("."))
        if read_run_name(Path(place)) is not None:
            yield Path(place)


def read_overview(folder: Path) -> RunOverview:
    """Look at the run in a folder.

    Raises:
        ValueError: there is none.
    """
    run, ranks = read_run_name(folder), list_ranks(folder)
    if run is None:
        raise ValueError(f"no run in {folder}")
    try:
        return _read(folder, run, ranks)
    except (OSError, ProtocolError):
        return RunOverview(folder, run, "unreadable", ranks=tuple(RankOverview(rank, "unreadable") for rank in ranks))


def _read(folder: Path, run: str, ranks: Sequence[int]) -> RunOverview:
    attempts = list_attempts(folder, ranks[0]) if ranks else []
    first = read_first(attempts[0]) if attempts else None
    begun = events_of(first) if first else ()
    last, overviews = last_event_of(attempts), read_ranks(folder)
    started, finished = (next(_told(attempts, name), None) for name in ("epoch/started", "epoch/finished"))
    heads = [read_head(attempt) for rank in ranks for attempt in list_attempts(folder, rank)]
    return RunOverview(
        folder,
        run,
        state_of_all(overviews),
        epoch=max((number for event in (started, finished) if (number := _whole(event, "epoch"))), default=None),
        max_epochs=_whole(started, "max_epochs"),
        step=last and last.step,
        best=_best(finished) or _best_saved(attempts),
        started=begun[0].walltime if begun else None,
        last_event=last and last.walltime,
        attempts=len(attempts),
        ranks=overviews,
        sinks=tuple(read_progress(run, folder, heads)),
    )


def _told(attempts: Sequence[Attempt], name: str) -> Iterator[Event]:
    """The lifecycle events of this name that count, the last one first."""
    for batch in kept_backwards(attempts, name.encode(), LOOK_BACK_BYTES):
        yield from (event for event in reversed(events_of(batch)) if event.type == "lifecycle" and event.name == name)


def _whole(event: Event | None, field: str) -> int | None:
    """A whole number that a lifecycle event tells."""
    number = event.value.get(field) if event else None
    return number if type(number) is int else None


def _best(finished: Event | None) -> Best | None:
    """The best epoch as the last one that finished tells it."""
    told = finished.value.get("best") if finished else None
    return _as_best(told) if isinstance(told, Mapping) else None


def _best_saved(attempts: Sequence[Attempt]) -> Best | None:
    """The best epoch as the last best checkpoint tells it, of a loop that tells no other way."""
    saved = _told(attempts, "checkpoint/saved")
    return next(
        (best for event in saved if event.value.get("kind") == "best" and (best := _as_best(event.value))), None
    )


def _as_best(fields: Mapping[str, Any]) -> Best | None:
    metric, score, epoch = fields.get("metric"), fields.get("score"), fields.get("epoch")
    if not isinstance(metric, str) or not isinstance(score, (int, float)):
        return None
    return Best(epoch if type(epoch) is int else None, metric, score)
