"""How a sink's process ends when it is told to."""

from __future__ import annotations

import asyncio
import os
import signal

from trainwire_sinks.exits import ExitCode
from trainwire_sinks.runner import SinkRunner

CODES = {signal.SIGINT: ExitCode.INTERRUPTED, signal.SIGTERM: ExitCode.TERMINATED}


async def run_until_signal(runner: SinkRunner) -> ExitCode:
    """Run a sink to its end; SIGINT or SIGTERM ends it with everything committed, a second one at once."""
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
