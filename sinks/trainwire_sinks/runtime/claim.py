"""Ensures that each output has one writer, by a lock that the kernel releases when its holder dies."""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import socket
from pathlib import Path
from typing import Final, TextIO

from trainwire_protocol.errors import ClaimedError, OutputError

logger = logging.getLogger("trainwire")


class Claim:
    """The right to write one output, as a lock on `<output>/.trainwire/<name>-rank<r>.claim`.

    Releasing the claim keeps the file: if it were removed, two processes could hold locks on different files of the
    same name.
    """

    def __init__(self, folder: Path, name: str, rank: int) -> None:
        self.path: Final = folder / ".trainwire" / f"{name}-rank{rank}.claim"
        self._description: Final = f"{name} in {folder}" + (f" for rank {rank}" if rank else "")
        self._file: TextIO | None = None

    def take(self) -> None:
        """Claim the output until `release` is called or this process ends.

        Raises:
            ClaimedError: another process holds the claim; the message names it.
            OutputError: the folder cannot be written.
        """
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            file = self.path.open("a+")
        except OSError as error:
            raise OutputError(
                f"cannot write the output {self._description}: {error.strerror} ({error.filename}); "
                "choose another folder with --output"
            ) from error
        try:
            self._lock(file)
        except BaseException:
            file.close()
            raise
        self._file = file

    def release(self) -> None:
        """Release the claim."""
        if self._file is not None:
            self._file.close()

    def _lock(self, file: TextIO) -> None:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            holder = file.read(200).strip() or "another process"
            raise ClaimedError(
                f"the output {self._description} is being written by {holder}: "
                "stop it, or choose another folder with --output"
            ) from None
        except OSError as error:
            # For example Lustre without the flock option: an output without a lock is better than none.
            logger.warning(
                "%s: this file system has no locks (%s); do not start a second process for it",
                self._description, error.strerror,
            )  # fmt: skip
        with contextlib.suppress(OSError):
            file.truncate(0)
            file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
            file.flush()
