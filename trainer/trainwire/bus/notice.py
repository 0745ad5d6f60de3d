"""Tells the user at a terminal where a run is recorded, and how to follow it."""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path
from typing import Final

QUIET: Final = "TRAINWIRE_QUIET"
"""Environment variable that suppresses what is printed on a terminal, unless it is empty or "0"."""


def is_shown(rank: int, *, quiet: bool) -> bool:
    """Return whether to print on standard error: for rank 0, on a terminal, unless the user wants quiet."""
    is_quiet = quiet or os.environ.get(QUIET, "") not in ("", "0")
    return rank == 0 and not is_quiet and sys.stderr is not None and sys.stderr.isatty()


def print_notice(folder: Path, rank: int, *, quiet: bool) -> None:
    """Print where a run is recorded, if `is_shown`."""
    if is_shown(rank, quiet=quiet):
        here = Path.cwd()
        shown = shlex.quote(str(folder.relative_to(here) if folder.is_relative_to(here) else folder))
        print(f"trainwire: recording to {shown}; to follow it: trainwire watch {shown}", file=sys.stderr)
