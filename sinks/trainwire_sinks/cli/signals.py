"""Stops a long-running command on SIGINT or SIGTERM."""

from __future__ import annotations

import asyncio
import os
import signal
from typing import Final, Protocol

from trainwire_sinks.runtime.exit_codes import ExitCode

CODES: Final = {signal.SIGINT: ExitCode.INTERRUPTED, signal.SIGTERM: ExitCode.TERMINATED}


class Runner(Protocol):
    """Something that runs until it is stopped: a sink's runner or a relay."""

    async def run(self) -> None:
        """Run to the end."""

    def stop(self) -> None:
        """Commit everything, and make `run` return soon."""


async def run_until_signal(runner: Runner) -> ExitCode:
    """Run to the end, or until SIGINT or SIGTERM stops the runner; a second signal exits the process immediately."""
    loop = asyncio.get_running_loop()
    received: list[signal.Signals] = []

    def stop(number: signal.Signals) -> None:
        if received:
            os._exit(CODES[number])
        received.append(number)
        runner.stop()

    for number in CODES:
        loop.add_signal_handler(number, stop, number)
    try:
        await runner.run()
    finally:
        for number in CODES:
            loop.remove_signal_handler(number)
    return CODES[received[0]] if received else ExitCode.OK
