"""Commands whose standard streams are a terminal."""

from __future__ import annotations

import os
import pty
import subprocess
from collections.abc import Sequence
from typing import Any


def run_on_terminal(command: Sequence[object], *streams: str, **options: Any) -> tuple[int, str]:
    """Run a command with the named streams on a terminal; return its exit code, and what the terminal receives."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(list(map(str, command)), **dict.fromkeys(streams, theirs), **options)
    os.close(theirs)
    received = b""
    try:
        while data := os.read(ours, 65536):
            received += data
    except OSError:  # the process has closed its end
        pass
    os.close(ours)
    return process.wait(60), received.decode()
