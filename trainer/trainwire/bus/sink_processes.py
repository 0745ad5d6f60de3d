"""The sinks that a training process starts: processes of their own, which it waits for at its end."""

from __future__ import annotations

import contextlib
import logging
import os
import subprocess
import time
from collections.abc import Iterable
from pathlib import Path

from trainwire_protocol.environment import LAUNCHED_SINKS, SinkCommand
from trainwire_protocol.process import wait_until_relayed

logger = logging.getLogger("trainwire")


class SinkProcesses:
    """The sinks that a training starts: processes in their own sessions, which Ctrl-C in a terminal does not reach.

    They exit once they have read the run's last event. None of them is killed.
    """

    def __init__(self) -> None:
        self._processes: dict[SinkCommand, subprocess.Popen[bytes]] = {}

    def start(self, sinks: Iterable[SinkCommand], folder: Path, rank: int) -> None:
        """Start each sink that `trainwire launch` has not started; log those that cannot be started."""
        launched = os.environ.get(LAUNCHED_SINKS, "").split(",")
        for sink in dict.fromkeys(sinks):
            if sink.name not in launched:
                try:
                    self._processes[sink] = sink.start(folder, rank)
                except OSError as error:
                    logger.warning("the sink %s could not be started: %s", sink.name, error)

    def wait(self, timeout: float) -> dict[SinkCommand, subprocess.Popen[bytes]]:
        """Wait for the sinks, at most `timeout` seconds for all, and log those that failed or are still running.

        Also waits, at most a few seconds, until the output of those that have exited is passed on.

        Returns:
            The processes that are still running.
        """
        deadline = time.monotonic() + timeout
        for process in self._processes.values():
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(max(0.0, deadline - time.monotonic()))
        running = {sink: process for sink, process in self._processes.items() if process.returncode is None}
        wait_until_relayed(process for process in self._processes.values() if process.returncode is not None)
        for sink, process in self._processes.items():
            if process.returncode:
                logger.warning("the sink %s ended with exit code %d", sink.name, process.returncode)
        if running:
            names = ", ".join(sink.name for sink in running)
            logger.warning("sinks still running, which exit when they have read everything: %s", names)
        return running
