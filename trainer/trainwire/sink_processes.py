"""The sinks that a training starts for itself."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path

from trainwire_protocol.process import start_detached, wait_until_relayed

logger = logging.getLogger("trainwire")

LAUNCHED_SINKS = "TRAINWIRE_LAUNCHED_SINKS"
"""The environment variable in which `trainwire launch` names the sinks that it starts itself, with commas between."""


class SinkProcesses:
    """Sinks as processes of their own, in a session of their own: Ctrl-C in the terminal does not reach them.

    They end by themselves when they have read the run's last event. None is ever killed.
    """

    def __init__(self) -> None:
        self._processes: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, names: Iterable[str], folder: Path, rank: int) -> None:
        """Start each sink that `trainwire launch` has not started; one that cannot be is reported, and left out."""
        launched = os.environ.get(LAUNCHED_SINKS, "").split(",")
        for name in dict.fromkeys(names):
            if name not in launched:
                self._start(name, folder, rank)

    def _start(self, name: str, folder: Path, rank: int) -> None:
        command = [sys.executable, "-m", "trainwire_sinks", "sink", name, str(folder), "--rank", str(rank)]
        try:
            self._processes[name] = start_detached(command)
        except OSError as error:
            logger.warning("the sink %s could not be started: %s", name, error)

    def wait(self, timeout: float) -> dict[str, subprocess.Popen[bytes]]:
        """Wait for the sinks, at most `timeout` seconds for all, and log those that failed or are still at work.

        Returns:
            The processes that are still at work, by the sink's name.
        """
        deadline = time.monotonic() + timeout
        unfinished = {}
        for name, process in self._processes.items():
            try:
                code = process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                unfinished[name] = process
            else:
                wait_until_relayed(process)
                if code != 0:
                    logger.warning("the sink %s ended with exit code %d", name, code)
        if unfinished:
            logger.warning("still at work, and ending by themselves: the sinks %s", ", ".join(unfinished))
        return unfinished
