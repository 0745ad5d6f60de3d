"""The sinks that a training starts for itself."""

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
    """Sinks as processes of their own, in a session of their own: Ctrl-C in the terminal does not reach them.

    They end by themselves when they have read the run's last event. None is ever killed.
    """

    def __init__(self) -> None:
        self._processes: dict[SinkCommand, subprocess.Popen[bytes]] = {}

    def start(self, sinks: Iterable[SinkCommand], folder: Path, rank: int) -> None:
        """Start each sink that `trainwire launch` has not started; one that cannot be is reported, and left out."""
        launched = os.environ.get(LAUNCHED_SINKS, "").split(",")
        for sink in dict.fromkeys(sinks):
            if sink.name not in launched:
                self._start(sink, folder, rank)

    def _start(self, sink: SinkCommand, folder: Path, rank: int) -> None:
        try:
            self._processes[sink] = sink.start(folder, rank)
        except OSError as error:
            logger.warning("the sink %s could not be started: %s", sink.name, error)

    def wait(self, timeout: float) -> dict[SinkCommand, subprocess.Popen[bytes]]:
        """Wait for the sinks, at most `timeout` seconds for all, and log those that failed or are still at work.

        What the others have written is waited for too, a few seconds at most.

        Returns:
            The processes that are still at work.
        """
        deadline = time.monotonic() + timeout
        for process in self._processes.values():
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(max(0.0, deadline - time.monotonic()))
        unfinished = {sink: process for sink, process in self._processes.items() if process.returncode is None}
        wait_until_relayed(process for process in self._processes.values() if process.returncode is not None)
        for sink, process in self._processes.items():
            if process.returncode:
                logger.warning("the sink %s ended with exit code %d", sink.name, process.returncode)
        if unfinished:
            logger.warning(
                "still at work, and ending by themselves: the sinks %s", ", ".join(sink.name for sink in unfinished)
            )
        return unfinished
