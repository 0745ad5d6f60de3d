"""Options that several commands have, understood in one way."""

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


@dataclass(frozen=True)
class Reading:
    """What a sink reads, and how long it waits; what `--help` shows of the options is in their docstrings."""

    rank: str = "0"
    """The process whose events are wanted, or "all": each by a sink of its own, with an output of its own."""
    give_up: float | None = None
    """Seconds after which a trainer on another host that has fallen silent is no longer waited for."""


DEFAULT: Final = Reading()

Seconds = TypeVar("Seconds", float, float | None)


def parse_rank(text: str) -> int:
    """The rank that `--rank` names.

    Raises:
        OptionError: it names none.
    """
    if not (text.isascii() and text.isdecimal()):
        raise OptionError(f'--rank is a number, 0 or more, or "all", not {text!r}')
    return int(text)


def check_seconds(option: str, seconds: Seconds) -> Seconds:
    """The seconds that an option gives, or None if it was left out.

    Raises:
        OptionError: it is no time that one could wait.
    """
    if seconds is not None and not seconds >= 0:
        raise OptionError(f"{option} is a number of seconds, 0 or more, not {seconds:g}")
    return seconds


SMALL: Final = frozenset({"scalar", "lifecycle", "log", "hparams"})
"""Types whose events are never on the channel `media`."""

TOLD_NAMES: Final = 8
"""How many of the names that there are an error tells."""


@dataclass(frozen=True)
class Filters:
    """What `--help` shows of them is in their docstrings."""

    name: Annotated[list[str] | None, Parameter(negative="")] = None
    """A pattern of the wanted names, as of files: 'dev/*'. Give it several times for several."""
    type: Annotated[list[EventType] | None, Parameter(negative="")] = None
    """A wanted type of event. Give it several times for several."""


ALL: Final = Filters()


class Selection:
    """Selects the wanted events, and knows in the end what there was none of."""

    def __init__(self, filters: Filters, from_step: int | None = None) -> None:
        self.count = 0
        """Events that were selected."""
        self._names, self._types = filters.name or [], frozenset(filters.type or ())
        self._from_step = from_step
        self._idle = dict.fromkeys(self._names)
        self._others: dict[str, None] = {}
        self._wants = lru_cache(4096)(self._match)

    @property
    def channels(self) -> tuple[str, ...]:
        """Where the wanted events are."""
        return ("event",) if self._types and self._types <= SMALL else CHANNELS

    def select(self, events: Sequence[Event]) -> Sequence[Event]:
        """Those of `events` that are wanted."""
        found = events
        if self._types:
            found = [event for event in found if event.type in self._types]
        if self._from_step is not None:
            found = [event for event in found if event.step >= self._from_step]
        if self._names:
            found = [event for event in found if self._wants(event.name)]
        self.count += len(found)
        return found

    @property
    def unmatched(self) -> list[str]:
        """The patterns that no name has matched."""
        return list(self._idle)

    def check(self, what: object) -> None:
        """Raise unless something was selected of `what`.

        Raises:
            NothingMatchesError: says what was wanted, and some of the names that there are.
        """
        if self.count:
            return
        wanted = [f"--name {one_line(pattern)!r}" for pattern in self._names]
        wanted += [f"--type {kind}" for kind in sorted(self._types)]
        wanted += [] if self._from_step is None else [f"--from-step {self._from_step}"]
        names = f"; the names there are {', '.join(map(one_line, self._others))}" if self._others else ""
        told = f"matches {' '.join(wanted)}" if wanted else "was recorded"
        raise NothingMatchesError(f"nothing in {what} {told}{names}")

    def _match(self, name: str) -> bool:
        matching = [pattern for pattern in self._names if fnmatchcase(name, pattern)]
        for pattern in matching:
            self._idle.pop(pattern, None)
        if not matching and len(self._others) < TOLD_NAMES:
            self._others[name] = None
        return bool(matching)
