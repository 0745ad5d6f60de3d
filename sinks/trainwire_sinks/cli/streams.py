"""Standard output and standard error of the command."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator

from trainwire_sinks.exits import ExitCode


@contextlib.contextmanager
def forgiving_streams() -> Iterator[None]:
    """Escape what the terminal's encoding lacks, and end as other programs do where nobody reads any more."""
    for stream in (sys.stdout, sys.stderr):
        # A stream that somebody has put in their place need not have an encoding.
        with contextlib.suppress(AttributeError):
            stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]  # hence the line above
    try:
        yield
    finally:
        try:
            sys.stdout.flush()
        except BrokenPipeError:
            # What is left would be tried, and complained about, once more when Python ends.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            sys.exit(ExitCode.BROKEN_PIPE)
