"""`trainwire launch`: runs a script, and sinks beside it for every bus that the script opens.

The script's environment names a private folder, the rendezvous. A bus that opens puts a pointer to its run into it:
`<session>.json`, a map of `folder` and `rank`.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
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
from trainwire_sinks.launch.signal_forwarding import forwarded_signals

logger = logging.getLogger("trainwire")

POLL_SECONDS: Final = 0.1

FORWARDED: Final = (
    signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGINT, signal.SIGQUIT,
)  # fmt: skip


class _Place(NamedTuple):
    """What one process writes: a sink's output of one rank of one run."""

    sink: SinkCommand
    folder: str
    rank: int


class Launch:
    """A script and the sinks beside it.

    Args:
        command: the script's command line.
        sinks: those that every bus of the script gets.
        wait: longest time to wait for the sinks after the script's end, in seconds.
    """

    def __init__(self, command: Sequence[str], sinks: Sequence[SinkCommand], wait: float = 60.0) -> None:
        self._command = list(command)
        self._sinks = list(dict.fromkeys(sinks))
        self._wait = wait
        self._processes: dict[_Place, subprocess.Popen[bytes]] = {}
        self._again: set[_Place] = set()
        self._seen: set[str] = set()

    def run(self) -> int:
        """Run the script to its end, and the sinks to theirs if they come to it in time.

        Returns:
            The script's exit code, 128 + n if signal n ended it.

        Raises:
            ScriptError: it cannot be started.
        """
        with tempfile.TemporaryDirectory(prefix="trainwire-") as rendezvous:
            with forwarded_signals(FORWARDED, lambda: [self._start_script(rendezvous)]) as [script]:
                while _is_running(script):
                    self._start_sinks(Path(rendezvous))
            self._start_sinks(Path(rendezvous))
            with contextlib.suppress(KeyboardInterrupt):
                self._wait_for_sinks()
        self._report()
        return script.returncode if script.returncode >= 0 else 128 - script.returncode

    def _start_script(self, rendezvous: str) -> subprocess.Popen[bytes]:
        environment = os.environ | {RENDEZVOUS: rendezvous, LAUNCHED_SINKS: ",".join(sink.name for sink in self._sinks)}
        try:
            return subprocess.Popen(self._command, env=environment)
        except OSError as error:
            raise ScriptError(f"cannot start {self._command[0]!r}: {error.strerror}") from error

    def _start_sinks(self, rendezvous: Path) -> None:
        """Start the sinks of every bus that has opened since the last call."""
        for pointer in sorted(rendezvous.glob("*.json")):
            if pointer.name not in self._seen:
                self._seen.add(pointer.name)
                self._again.update(self._places(pointer))
        # A sink may still be busy with the run's last attempt. It may go on to the next by itself, or just miss it.
        for place in sorted(self._again):
            if place not in self._processes or self._processes[place].poll() is not None:
                self._again.remove(place)
                self._processes[place] = place.sink.start(Path(place.folder), place.rank)

    def _places(self, pointer: Path) -> list[_Place]:
        try:
            fields = json.loads(pointer.read_bytes())
            return [_Place(sink, str(fields["folder"]), int(fields["rank"])) for sink in self._sinks]
        except (OSError, ValueError, TypeError, KeyError) as error:
            logger.warning("the pointer to a run %s cannot be read (%r): it gets no sinks", pointer, error)
            return []

    def _wait_for_sinks(self) -> None:
        deadline = time.monotonic() + self._wait
        while self._unfinished() and time.monotonic() < deadline:
            time.sleep(POLL_SECONDS)

    def _unfinished(self) -> list[_Place]:
        return [place for place, process in self._processes.items() if process.poll() is None]

    def _report(self) -> None:
        wait_until_relayed(process for process in self._processes.values() if process.returncode is not None)
        for place, process in self._processes.items():
            what = f"the sink {place.sink.name} of {place.folder}" + (f", rank {place.rank}" if place.rank else "")
            if process.returncode is None:
                logger.warning("%s has not finished: process %d goes on and ends by itself", what, process.pid)
            elif process.returncode:
                logger.warning("%s ended with exit code %d", what, process.returncode)


def _is_running(script: subprocess.Popen[bytes]) -> bool:
    """Whether the script still runs, after waiting a little for its end."""
    try:
        script.wait(POLL_SECONDS)
    except subprocess.TimeoutExpired:
        return True
    return False
