"""Counts values that cannot be recorded, and logs each kind once."""

from __future__ import annotations

import contextlib
import logging
from collections import Counter
from collections.abc import Mapping
from typing import Final

from trainwire_protocol.errors import InvalidEventError, TrainwireError

MAX_KINDS: Final = 1000
"""Number of kinds that are counted and logged; further kinds are ignored."""

_log = logging.getLogger("trainwire")


class Rejections:
    """Counts of rejected values, by kind: usually the name of the event."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()

    def add(self, kind: str, message: str, *arguments: object, count: int = 1) -> None:
        """Count rejected values, and log the message if they are the first of their kind."""
        is_known = kind in self.counts
        if is_known or len(self.counts) < MAX_KINDS:
            self.counts[kind] += count
        if not is_known and len(self.counts) < MAX_KINDS:
            with contextlib.suppress(Exception):  # a logging handler of the user may fail
                _log.warning(message, *arguments)

    def add_event(self, name: object, kind: object, error: Exception) -> None:
        """Count an event that is not recorded, and log why if it is the first of its name."""
        if isinstance(error, InvalidEventError):  # its message contains the event's name
            self.add(short_repr(name), "not recorded: %s", error)
        else:
            message = "not recorded: event %s of type %s: %s"
            self.add(short_repr(name), message, short_repr(name), _name_of(kind), explain(error))

    def add_notes(self, name: object, kind: str, notes: Mapping[str, str]) -> None:
        """Count and log what was recorded differently from how it was passed, each kind once for each name."""
        for what, note in notes.items():
            self.add(f"{name!r:.100} {what:.100}", "event %s of type %s: %s", short_repr(name), kind, note)


def _name_of(kind: object) -> str:
    return f"{kind:.100}" if isinstance(kind, str) else short_repr(kind)


def explain(error: Exception) -> str:
    """Return the message of an error of our own, which is a sentence, and the type and message of any other."""
    return str(error) if isinstance(error, TrainwireError) else short_repr(error)


def short_repr(value: object) -> str:
    """Return a `repr` of at most 100 characters; never fails, whatever the value does."""
    try:
        return f"{value!r:.100}"
    except Exception:
        return f"<{type(value).__name__}>"
