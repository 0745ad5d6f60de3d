"""A look now and then at all ranks of a run, for those of its views that are shown side by side."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from math import inf
from pathlib import Path
from typing import Final

from trainwire_sinks.inspect.ranks import RankOverview, read_ranks

PAUSE_SECONDS: Final = 2.0
"""How long after a look the next one is taken."""

LARGEST_SHARE: Final = 0.05
"""Of the time that looking takes: a run may have many ranks."""


class Ranks:
    """The ranks in a run's folder; the views of one run share it. For threads: it reads files."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._known: Sequence[RankOverview] = ()
        self._begun = self._next = -inf
        self._looking = threading.Lock()

    def read(self) -> Sequence[RankOverview]:
        """All of them, as they were a moment ago."""
        now = time.monotonic()
        if now >= self._next and not self._looking.locked():
            # Others that look meanwhile get what is known.
            self._next = now + PAUSE_SECONDS
            self._look(now)
        return self._known

    def read_anew(self) -> Sequence[RankOverview]:
        """All of them, as they are now; waits for a look that is being taken."""
        self._look(time.monotonic())
        return self._known

    def _look(self, asked: float) -> None:
        """Look, unless somebody has begun to since this was asked for."""
        with self._looking:
            if self._begun >= asked:
                return
            begun = self._begun = time.monotonic()
            self._known = read_ranks(self._folder)
            taken = time.monotonic() - begun
            self._next = begun + max(PAUSE_SECONDS, taken / LARGEST_SHARE)
