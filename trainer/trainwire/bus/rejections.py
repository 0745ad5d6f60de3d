"""Says once what is wrong with what is recorded, and counts the rest."""

from __future__ import annotations

import contextlib
import logging
from collections import Counter
from typing import Final

MAX_KINDS: Final = 1000
"""Different rejections that are told apart."""

_log = logging.getLogger("trainwire")


class Rejections:
    """Rejections by what they are about."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()

    def add(self, kind: str, message: str, *arguments: object) -> None:
        """Count a complaint, and log it if it is the first of its kind."""
        known = kind in self.counts
        if known or len(self.counts) < MAX_KINDS:
            self.counts[kind] += 1
        if not known and len(self.counts) < MAX_KINDS:
            with contextlib.suppress(Exception):  # a handler that fails, of whoever trains
                _log.warning(message, *arguments)


def shown(value: object) -> str:
    """A short `repr` for a complaint: one that cannot fail, whatever the value does."""
    try:
        return f"{value!r:.100}"
    except Exception:
        return f"<{type(value).__name__}>"
