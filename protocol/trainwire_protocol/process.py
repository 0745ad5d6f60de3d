"""Which process is meant: a pid alone is given to another process sooner or later."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple


class ProcessIdentity(NamedTuple):
    """A process, so that no later one is taken for it."""

    host: str
    pid: int
    started: str
    """When it started, as the system words it; compared, never parsed."""

    @classmethod
    def of_this_process(cls) -> ProcessIdentity:
        """The identity of the process that calls."""
        return cls(socket.gethostname(), os.getpid(), process_start_time(os.getpid()) or "")

    @classmethod
    def from_fields(cls, fields: Any) -> ProcessIdentity | None:
        """Read it from the map that files and replies hold, or None if that is none."""
        if not isinstance(fields, dict):
            return None
        host, pid, started = fields.get("host"), fields.get("pid"), fields.get("started")
        if isinstance(host, str) and isinstance(pid, int) and 0 <= pid < 2**63 and isinstance(started, str):
            return cls(host, pid, started)
        return None

    def is_gone(self) -> bool:
        """Whether it is known to have ended: False for one on another host, and for one that is stopped."""
        return self.host == socket.gethostname() and process_start_time(self.pid) != self.started


def start_detached(command: Sequence[str]) -> subprocess.Popen[bytes]:
    """Start a process in a session of its own, which outlives this one and keeps nothing of it open.

    A terminal's Ctrl-C does not reach it, and what it writes to standard error comes out here as long as this process
    lives: were it given our own, whoever reads our output would wait for the end of the one left behind.

    Raises:
        OSError: it cannot be started.
    """
    process = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, start_new_session=True
    )
    threading.Thread(target=_relay_errors, args=(process,), name="trainwire-relay", daemon=True).start()
    return process


def _relay_errors(process: subprocess.Popen[bytes]) -> None:
    assert process.stderr is not None
    with contextlib.suppress(OSError, ValueError), process.stderr as lines:
        for line in lines:
            sys.stderr.write(line.decode(errors="replace"))
            sys.stderr.flush()


def process_start_time(pid: int) -> str | None:
    """When the process with this pid started, or None if there is none (a zombie counts as none)."""
    if pid <= 0:
        return None
    try:
        # Fields 3 and 22 of proc(5)'s stat, counted after the command's name, which may hold anything but ")".
        fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return _start_time_from_ps(pid) if not Path("/proc/self/stat").exists() else None
    return None if fields[0] in (b"Z", b"X") else f"{_boot()}:{fields[19].decode()}"


@cache
def _boot() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def _start_time_from_ps(pid: int) -> str | None:
    found = subprocess.run(["ps", "-o", "lstart=", "-p", str(pid)], capture_output=True, text=True, check=False)
    return found.stdout.strip() or None
