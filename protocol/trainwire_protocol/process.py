"""Which process is meant: a pid alone is given to another process sooner or later."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import IO, Any, Final, NamedTuple

RELAY_SECONDS: Final = 5.0
"""How long what an ended process has written may take to come out: a machine may be busy, a terminal slow."""


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

    A terminal's Ctrl-C does not reach it, and what it writes to standard output and standard error comes out here as
    long as this process lives: were it given our own, whoever reads our output would wait for the end of the one left
    behind.

    Raises:
        OSError: it cannot be started.
    """
    process = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True
    )
    for pipe, name in ((process.stdout, "stdout"), (process.stderr, "stderr")):
        threading.Thread(target=_relay, args=(pipe, name), name=f"trainwire-{name}", daemon=True).start()
    return process


def wait_until_relayed(processes: Iterable[subprocess.Popen[bytes]]) -> None:
    """Wait, for at most `RELAY_SECONDS`, until all is out that ended processes of `start_detached` have written."""
    deadline = time.monotonic() + RELAY_SECONDS
    pipes = [pipe for process in processes for pipe in (process.stdout, process.stderr) if pipe]
    while not all(pipe.closed for pipe in pipes):
        # A process that it has started in turn may hold them open.
        if time.monotonic() > deadline:
            return
        time.sleep(0.01)


def _relay(pipe: IO[bytes], name: str) -> None:
    # Not the stream itself: whoever puts another in its place wants these lines there.
    with contextlib.suppress(OSError, ValueError), pipe as lines:
        for line in lines:
            stream = getattr(sys, name)
            stream.write(line.decode(errors="replace"))
            stream.flush()


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
