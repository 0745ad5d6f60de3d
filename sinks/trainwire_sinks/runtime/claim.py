"""One writer for an output: a lock that the kernel takes back when its holder dies."""

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
    """The right to write one output: `<output>/.trainwire/<name>-rank<r>.claim`.

    The file stays when the claim is released: if it were removed, two others could hold a lock on "it" at once.
    """

    def __init__(self, folder: Path, name: str, rank: int) -> None:
        self.path: Final = folder / ".trainwire" / f"{name}-rank{rank}.claim"
        self._what: Final = f"{name} in {folder}" + (f" for rank {rank}" if rank else "")
        self._file: TextIO | None = None

    def take(self) -> None:
        """Claim the output until `release`, or until this process ends.

        Raises:
            ClaimedError: another process holds it; says which.
            OutputError: the folder cannot be written.
        """
        file = self._open()
        try:
            self._lock(file)
        except BaseException:
            file.close()
            raise
        self._file = file

    def release(self) -> None:
        """Let another have it."""
        if self._file is not None:
            self._file.close()

    def _open(self) -> TextIO:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            return self.path.open("a+")
        except OSError as error:
            raise OutputError(
                f"cannot write the output {self._what}: {error.strerror} ({error.filename}); "
                "choose another folder with --output"
            ) from error

    def _lock(self, file: TextIO) -> None:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ClaimedError(
                f"the output {self._what} is being written by {_holder(file)}: "
                "end it, or choose another folder with --output"
            ) from None
        except OSError as error:
            # Lustre without the flock option, for one: better no lock than no output.
            logger.warning("%s: this file system has no locks (%s); start no second one", self._what, error.strerror)
        with contextlib.suppress(OSError):
            file.truncate(0)
            file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
            file.flush()


def _holder(file: TextIO) -> str:
    file.seek(0)
    return file.read(200).strip() or "another process"
