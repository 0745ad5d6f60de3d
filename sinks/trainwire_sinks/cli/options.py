"""Options that several commands share; `--help` shows the docstrings of their fields."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import lru_cache
from typing import Annotated, Final, TypeVar

from cyclopts import Parameter

from trainwire_protocol.errors import NothingMatchesError, OptionError
from trainwire_protocol.events import CHANNELS, Event, EventType
from trainwire_sinks.text.format import one_line

SMALL_TYPES: Final = frozenset({"scalar", "lifecycle", "log", "hparams"})
"""Types whose events are never on the channel `media`."""

LISTED_NAMES: Final = 8
"""Maximum number of recorded names that an error message lists."""

Seconds = TypeVar("Seconds", float, float | None)


@dataclass(frozen=True)
class ReadOptions:
    """Which rank a sink reads, and how long it waits."""

    rank: str = "0"
    """The rank to read, or "all" to run one sink for each rank, each with its own output."""
    give_up: float | None = None
    """Seconds after which to stop waiting for a run to begin, or for a silent trainer on another host."""


@dataclass(frozen=True)
class Filters:
    """Which events are selected."""

    name: Annotated[list[str] | None, Parameter(negative="")] = None
    """Select events whose names match this pattern, such as 'dev/*'. May be given several times."""
    type: Annotated[list[EventType] | None, Parameter(negative="")] = None
    """Select events of this type. May be given several times."""


DEFAULT_READ_OPTIONS: Final = ReadOptions()
ALL_EVENTS: Final = Filters()


def check_seconds(option: str, seconds: Seconds) -> Seconds:
    """Return the value of an option that is a number of seconds, or None if it is not given.

    Raises:
        OptionError: the number is negative or NaN.
    """
    if seconds is not None and not seconds >= 0:
        raise OptionError(f"{option} must be a number of seconds, 0 or more, not {seconds:g}")
    return seconds


class Selection:
    """Selects events by name, type and step, and keeps track of the patterns and names that have not matched."""

    def __init__(self, filters: Filters, from_step: int | None = None) -> None:
        self.count = 0
        """Number of events selected so far."""
        self._patterns, self._types = filters.name or [], frozenset(filters.type or ())
        self._from_step = from_step
        self._unmatched_patterns = dict.fromkeys(self._patterns)
        self._other_names: dict[str, None] = {}
        self._matches = lru_cache(4096)(self._match)

    @property
    def channels(self) -> tuple[str, ...]:
        """The channels that selected events may be on."""
        return ("event",) if self._types and self._types <= SMALL_TYPES else CHANNELS

    def select(self, events: Sequence[Event]) -> Sequence[Event]:
        """Return the selected ones of `events`."""
        selected = events
        if self._types:
            selected = [event for event in selected if event.type in self._types]
        if self._from_step is not None:
            selected = [event for event in selected if event.step >= self._from_step]
        if self._patterns:
            selected = [event for event in selected if self._matches(event.name)]
        self.count += len(selected)
        return selected

    @property
    def unmatched(self) -> list[str]:
        """The patterns that have matched no name."""
        return list(self._unmatched_patterns)

    def check(self, source: object) -> None:
        """Check that an event was selected; `source` names the run in the message.

        Raises:
            NothingMatchesError: no event was selected; the message lists some of the recorded names.
        """
        if self.count:
            return
        filters = [f"--name {one_line(pattern)!r}" for pattern in self._patterns]
        filters += [f"--type {kind}" for kind in sorted(self._types)]
        filters += [] if self._from_step is None else [f"--from-step {self._from_step}"]
        reason = (
            f"no event in {source} matches {' '.join(filters)}" if filters else f"no event was recorded in {source}"
        )
        names = f"; recorded names: {', '.join(map(one_line, self._other_names))}" if self._other_names else ""
        raise NothingMatchesError(reason + names)

    def _match(self, name: str) -> bool:
        matching = [pattern for pattern in self._patterns if fnmatchcase(name, pattern)]
        for pattern in matching:
            self._unmatched_patterns.pop(pattern, None)
        if not matching and len(self._other_names) < LISTED_NAMES:
            self._other_names[name] = None
        return bool(matching)
