"""Counts values that cannot be recorded, and logs each kind once."""

from __future__ import annotations

import contextlib
import logging
from collections import Counter
from typing import Final

MAX_KINDS: Final = 1000
"""Number of kinds that are counted and logged; further kinds are ignored."""

_log = logging.getLogger("trainwire")


class Rejections:
    """Counts of rejected values, by kind: usually the name of the event."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()

    def add(self, kind: str, message: str, *arguments: object) -> None:
        """Count a rejection, and log the message if it is the first of its kind."""
        is_known = kind in self.counts
        if is_known or len(self.counts) < MAX_KINDS:
            self.counts[kind] += 1
        if not is_known and len(self.counts) < MAX_KINDS:
            with contextlib.suppress(Exception):  # a logging handler of the user may fail
                _log.warning(message, *arguments)


def short_repr(value: object) -> str:
    """Return a `repr` of at most 100 characters; never fails, whatever the value does."""
    try:
        return f"{value!r:.100}"
    except Exception:
        return f"<{type(value).__name__}>"
