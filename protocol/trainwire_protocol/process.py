"""Processes: identifying them reliably, and starting them detached."""

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
"""Maximum wait for the last output of an ended process, which a busy machine or a slow terminal delays."""


class ProcessIdentity(NamedTuple):
    """Identifies a process, even after the system has given its pid to another one."""

    host: str
    pid: int
    started: str
    """The start time in the format of the system; compared, never parsed."""

    @classmethod
    def of_this_process(cls) -> ProcessIdentity:
        """Return the identity of this process."""
        return cls(socket.gethostname(), os.getpid(), process_start_time(os.getpid()) or "")

    @classmethod
    def from_fields(cls, fields: Any) -> ProcessIdentity | None:
        """Return the identity in a map from a file or reply, or None if the map is invalid."""
        if not isinstance(fields, dict):
            return None
        host, pid, started = fields.get("host"), fields.get("pid"), fields.get("started")
        if isinstance(host, str) and isinstance(pid, int) and 0 <= pid < 2**63 and isinstance(started, str):
            return cls(host, pid, started)
        return None

    def is_on_this_host(self) -> bool:
        """Return whether the process runs, or ran, on this host."""
        return self.host == socket.gethostname()

    def is_gone(self) -> bool:
        """Whether the process is known to have ended. False for one on another host, and for a suspended one."""
        return self.is_on_this_host() and process_start_time(self.pid) != self.started

    def is_ancestor(self) -> bool:
        """Return whether the process has started this one, directly or through others that still run."""
        pid = os.getppid()
        while self.is_on_this_host() and pid > 1:
            if pid == self.pid:
                return process_start_time(pid) == self.started
            pid = _parent_of(pid)
        return False


def start_detached(command: Sequence[str]) -> subprocess.Popen[bytes]:
    """Start a process that may outlive this one, in its own session.

    Ctrl-C in a terminal does not reach it. Its output is copied to the standard output and standard error of this
    process. If it inherited these instead, a reader of them would wait until the detached process ends too.

    Raises:
        OSError: the process cannot be started.
    """
    process = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True
    )
    for pipe, name in ((process.stdout, "stdout"), (process.stderr, "stderr")):
        threading.Thread(target=_relay, args=(pipe, name), name=f"trainwire-{name}", daemon=True).start()
    return process


def wait_until_relayed(processes: Iterable[subprocess.Popen[bytes]]) -> None:
    """Wait, at most `RELAY_SECONDS`, until the output of ended processes of `start_detached` has been written."""
    deadline = time.monotonic() + RELAY_SECONDS
    pipes = [pipe for process in processes for pipe in (process.stdout, process.stderr) if pipe]
    while not all(pipe.closed for pipe in pipes):
        # A child of the process may keep the pipes open.
        if time.monotonic() > deadline:
            return
        time.sleep(0.01)


def _relay(pipe: IO[bytes], name: str) -> None:
    with contextlib.suppress(OSError, ValueError), pipe as lines:
        for line in lines:
            stream = getattr(sys, name)  # a test or a progress bar may replace it at any time
            # It is None if it is closed. The pipe is read in any case: otherwise the process would end by SIGPIPE.
            with contextlib.suppress(OSError, ValueError, AttributeError):
                stream.write(line.decode(errors="replace"))
                stream.flush()


def _parent_of(pid: int) -> int:
    """Return the pid of a process's parent, or 0 if it is not known."""
    try:
        return int(Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[1])
    except (OSError, ValueError, IndexError):
        return 0


def process_start_time(pid: int) -> str | None:
    """Return when the process with this pid started, or None if there is no such process or it is a zombie."""
    if pid <= 0:
        return None
    try:
        # Fields 3 and 22 of stat in proc(5), counted after the command's name, which may contain anything.
        fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        if Path("/proc/self/stat").exists():
            return None
        # A system without procfs.
        listed = subprocess.run(["ps", "-o", "lstart=", "-p", str(pid)], capture_output=True, text=True, check=False)
        return listed.stdout.strip() or None
    return None if fields[0] in (b"Z", b"X") else f"{_boot()}:{fields[19].decode()}"


@cache
def _boot() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
