"""How a process that runs on ends when it is told to."""

from __future__ import annotations

import asyncio
import os
import signal
from typing import Protocol

from trainwire_sinks.runtime.exit_codes import ExitCode


class Runner(Protocol):
    """Something that runs until it is stopped: a sink's runner, a relay."""

    async def run(self) -> None:
        """Run to the end."""

    def stop(self) -> None:
        """End soon, with everything committed."""


CODES = {signal.SIGINT: ExitCode.INTERRUPTED, signal.SIGTERM: ExitCode.TERMINATED}


async def run_until_signal(runner: Runner) -> ExitCode:
    """Run to the end; SIGINT or SIGTERM ends it with everything committed, a second one at once."""
    loop = asyncio.get_running_loop()
    caught: list[signal.Signals] = []

    def stop(number: signal.Signals) -> None:
        if caught:
            os._exit(CODES[number])
        caught.append(number)
        runner.stop()

    for number in CODES:
        loop.add_signal_handler(number, stop, number)
    try:
        await runner.run()
    finally:
        for number in CODES:
            loop.remove_signal_handler(number)
    return CODES[caught[0]] if caught else ExitCode.OK
