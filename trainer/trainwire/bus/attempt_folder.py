"""The folder of an attempt while it is recorded: it is followed if it is moved, and made again if it is deleted."""

from __future__ import annotations

import os
from dataclasses import replace
from enum import Enum
from pathlib import Path

from trainwire_protocol.journal.run_folder import Attempt, name_run, read_run_name


class Change(Enum):
    """What has happened to a folder since the last check."""

    NONE = "none"
    MOVED = "moved"
    """It has another path now."""
    MADE_AGAIN = "made again"
    """It was deleted, with everything in it, and made again at its path."""
    REPLACED = "replaced"
    """It was deleted, and another trainer records at its path."""


class AttemptFolder:
    """Keeps a folder open, so that it is known by more than its path.

    Args:
        attempt: the attempt, whose folder exists.
        session: identifies the owner of its lease.

    Raises:
        OSError: the folder cannot be opened.
    """

    def __init__(self, attempt: Attempt, session: str) -> None:
        self.attempt = attempt
        self._session = session
        self._descriptor = os.open(attempt.folder, os.O_RDONLY | os.O_DIRECTORY)

    def check(self) -> Change:
        """Return what has happened to the folder, and change `attempt` accordingly.

        Raises:
            OSError: the disk does not tell, or the folder cannot be made again: call this again later.
        """
        if self._is_at(self.attempt.folder):
            return Change.NONE
        path = self._current_path()
        if path is not None:
            self.attempt = replace(self.attempt, folder=path)
            return Change.MOVED
        lease, run = self.attempt.read_lease(), read_run_name(self.attempt.run_folder)
        if (lease and lease.session != self._session) or run not in (None, self.attempt.run):
            return Change.REPLACED
        self.attempt.folder.mkdir(parents=True, exist_ok=True)
        name_run(self.attempt.run_folder, self.attempt.run)
        self.close()
        self._descriptor = os.open(self.attempt.folder, os.O_RDONLY | os.O_DIRECTORY)
        return Change.MADE_AGAIN

    def close(self) -> None:
        """Close the folder."""
        os.close(self._descriptor)

    def _is_at(self, path: Path) -> bool:
        try:
            return os.path.samestat(os.fstat(self._descriptor), path.stat())
        except (FileNotFoundError, NotADirectoryError):
            return False

    def _current_path(self) -> Path | None:
        """Return where the folder is now, or None if it was deleted or the system does not tell."""
        try:
            path = Path(f"/proc/self/fd/{self._descriptor}").readlink()
        except OSError:
            return None
        return path if self._is_at(path) else None
