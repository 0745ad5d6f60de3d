"""Options that several commands have, understood in one way."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, TypeVar

from trainwire_protocol.errors import OptionError


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
