"""A look now and then at all ranks of a run, for those of its views that are shown side by side."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from trainwire_sinks.ranks import RankOverview, read_ranks

PAUSE_SECONDS: Final = 2.0
"""How long after a look the next one is taken."""

LARGEST_SHARE: Final = 0.05
"""Of the time that looking takes: a run may have many ranks."""


class Ranks:
    """The ranks in a run's folder; the views of one run share it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._known: Sequence[RankOverview] = ()
        self._next = 0.0

    def read(self) -> Sequence[RankOverview]:
        """All of them, as they were a moment ago. For a thread: it reads files."""
        begun = time.monotonic()
        if begun >= self._next:
            # Others that look meanwhile get what is known.
            self._next = begun + PAUSE_SECONDS
            self._known = read_ranks(self._folder)
            taken = time.monotonic() - begun
            self._next = begun + max(PAUSE_SECONDS, taken / LARGEST_SHARE)
        return self._known
