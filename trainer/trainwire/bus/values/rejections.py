"""Counts values that cannot be recorded, and logs each kind once for each reason."""

from __future__ import annotations

import contextlib
import logging
import re
from collections import Counter
from collections.abc import Mapping
from typing import Final

from trainwire_protocol.errors import InvalidEventError, TrainwireError

MAX_KINDS: Final = 1000
"""Number of kinds that are counted and logged; further kinds are ignored."""

MAX_REASONS: Final = 10
"""Number of reasons that are logged for each kind."""

_DETAILS: Final = re.compile(r"'[^']*'|\"[^\"]*\"|[0-9.]+")

_log = logging.getLogger("trainwire")


class Rejections:
    """Counts of rejected values, by kind: usually the name of the event."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self._reasons: dict[str, set[str]] = {}

    def add(self, kind: str, message: str, *arguments: object, count: int = 1, reason: str = "") -> None:
        """Count rejected values, and log the message if they are the first of their kind with this reason."""
        if kind not in self.counts and len(self.counts) >= MAX_KINDS:
            return
        self.counts[kind] += count
        reasons = self._reasons.setdefault(kind, set())
        if reason not in reasons and len(reasons) < MAX_REASONS:
            reasons.add(reason)
            with contextlib.suppress(Exception):  # a logging handler of the user may fail
                _log.warning(message, *arguments)

    def add_call(self, metrics: object, error: Exception) -> None:
        """Count a call of `log` that is not recorded, and log why if it is the first with this reason."""
        reason = f"{type(metrics).__name__} {_reason_of(error)}"
        if isinstance(metrics, Mapping):
            self.add("log", "log cannot record %s: %s", short_repr(metrics), explain(error), reason=reason)
        else:
            message = "log cannot record %s: pass a map of names to numbers, as in bus.log({'train/loss': 0.5}, step=1)"
            self.add("log", message, short_repr(metrics), reason=reason)

    def add_event(self, name: object, kind: object, error: Exception) -> None:
        """Count an event that is not recorded, and log why if it is the first of its name with this reason."""
        reason = _reason_of(error)
        if isinstance(error, InvalidEventError):  # its message contains the event's name
            self.add(short_repr(name), "not recorded: %s", error, reason=reason)
        else:
            message = "not recorded: event %s of type %s: %s"
            self.add(short_repr(name), message, short_repr(name), _name_of(kind), explain(error), reason=reason)

    def add_notes(self, name: object, kind: str, notes: Mapping[str, str]) -> None:
        """Count and log what was recorded differently from how it was passed, each kind once for each name."""
        for what, note in notes.items():
            self.add(f"{name!r:.100} {what:.100}", "event %s of type %s: %s", short_repr(name), kind, note)


def _name_of(kind: object) -> str:
    return f"{kind:.100}" if isinstance(kind, str) else short_repr(kind)


def _reason_of(error: Exception) -> str:
    """Return the error's type and its message without quoted text and digits, which differ from value to value."""
    try:
        text = str(error)
    except Exception:
        text = ""
    return f"{type(error).__name__}: {_DETAILS.sub('', text):.200}"


def explain(error: Exception) -> str:
    """Return the message of an error of our own, which is a sentence, and the type and message of any other."""
    return str(error) if isinstance(error, TrainwireError) else short_repr(error)


def short_repr(value: object) -> str:
    """Return a `repr` of at most 100 characters, of a map only its keys.

    It never fails, whatever the value does, and does not read tensors, because reading one on a GPU waits for it.
    """
    try:
        if isinstance(value, dict):
            return f"{list(value)!r:.100}"
        if hasattr(value, "is_cuda"):
            return f"<{type(value).__name__} of shape {tuple(getattr(value, 'shape', ()))}>"
        return f"{value!r:.100}"
    except Exception:
        return f"<{type(value).__name__}>"
