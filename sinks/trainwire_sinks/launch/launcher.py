"""Runs a script, and sinks for every bus that the script opens.

The script's environment names a private folder, the rendezvous. A bus that opens writes a pointer to its run there:
`<session>.json`, a map of `folder` and `rank`.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final, NamedTuple

from trainwire_protocol.environment import LAUNCHED_SINKS, RENDEZVOUS, SinkCommand
from trainwire_protocol.errors import ScriptError
from trainwire_protocol.process import wait_until_relayed
from trainwire_protocol.transport.private_folder import OWNER, make_private_folder
from trainwire_sinks.launch.signal_forwarding import forwarded_signals

logger = logging.getLogger("trainwire")

POLL_SECONDS: Final = 0.1

FORWARDED: Final = (
    signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGINT, signal.SIGQUIT,
)  # fmt: skip


class _Job(NamedTuple):
    """The work of one sink process: one rank of one run."""

    sink: SinkCommand
    folder: str
    rank: int


class Launcher:
    """Runs a script with sinks beside it.

    Args:
        command: the script's command line.
        sinks: the sinks that run for every bus of the script.
        wait: seconds to wait for the sinks after the script has ended.
    """

    def __init__(self, command: Sequence[str], sinks: Sequence[SinkCommand], wait: float = 60.0) -> None:
        self._command = list(command)
        self._sinks = list(dict.fromkeys(sinks))
        self._wait = wait
        self._processes: dict[_Job, subprocess.Popen[bytes]] = {}
        self._pending: set[_Job] = set()
        self._pointers: set[str] = set()

    def run(self) -> int:
        """Run the script to its end, and wait for its sinks.

        Returns:
            The script's exit code; 128 + n if signal n ended it.

        Raises:
            ScriptError: the script cannot be started.
        """
        rendezvous = make_private_folder(tempfile.gettempdir())
        try:
            with forwarded_signals(FORWARDED, lambda: [self._start_script(rendezvous)]) as [script]:
                while script.poll() is None:
                    self._start_sinks(rendezvous)
                    with contextlib.suppress(subprocess.TimeoutExpired):
                        script.wait(POLL_SECONDS)
            self._start_sinks(rendezvous)
            with contextlib.suppress(KeyboardInterrupt):
                self._wait_for_sinks()
        finally:
            shutil.rmtree(rendezvous, ignore_errors=True)
        self._report()
        return script.returncode if script.returncode >= 0 else 128 - script.returncode

    def _start_script(self, rendezvous: Path) -> subprocess.Popen[bytes]:
        environment = os.environ | {
            RENDEZVOUS: str(rendezvous),
            LAUNCHED_SINKS: ",".join(sink.name for sink in self._sinks),
        }
        try:
            return subprocess.Popen(self._command, env=environment)
        except OSError as error:
            raise ScriptError(f"cannot start {self._command[0]!r}: {error.strerror}") from error

    def _start_sinks(self, rendezvous: Path) -> None:
        """Start the sinks of every bus that has opened since the last call."""
        for pointer in sorted(path for path in rendezvous.glob("*.json") if path.name != OWNER):
            if pointer.name not in self._pointers:
                self._pointers.add(pointer.name)
                self._pending.update(self._read_jobs(pointer))
        # A sink of the run's previous attempt may still be running. It may miss the new attempt, so start it again.
        for job in sorted(self._pending):
            if job not in self._processes or self._processes[job].poll() is not None:
                self._pending.remove(job)
                self._processes[job] = job.sink.start(Path(job.folder), job.rank)

    def _read_jobs(self, pointer: Path) -> list[_Job]:
        try:
            fields = json.loads(pointer.read_bytes())
            return [_Job(sink, str(fields["folder"]), int(fields["rank"])) for sink in self._sinks]
        except (OSError, ValueError, TypeError, KeyError) as error:
            logger.warning("no sinks are started for a run: its pointer %s cannot be read (%r)", pointer, error)
            return []

    def _wait_for_sinks(self) -> None:
        deadline = time.monotonic() + self._wait
        while any(process.poll() is None for process in self._processes.values()) and time.monotonic() < deadline:
            time.sleep(POLL_SECONDS)

    def _report(self) -> None:
        """Log the sinks that have failed or have not finished."""
        wait_until_relayed(process for process in self._processes.values() if process.returncode is not None)
        for job, process in self._processes.items():
            sink = f"the sink {job.sink.name} of {job.folder}" + (f", rank {job.rank}" if job.rank else "")
            if process.returncode is None:
                logger.warning("%s has not finished: process %d continues and exits by itself", sink, process.pid)
            elif process.returncode:
                logger.warning("%s ended with exit code %d", sink, process.returncode)
