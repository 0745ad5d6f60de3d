"""`--rank all`: one process for each rank of a run."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence

from trainwire_protocol.errors import OptionError
from trainwire_protocol.target import Target
from trainwire_sinks.cli.options import check_seconds
from trainwire_sinks.cli.waiting import wait_for_ranks
from trainwire_sinks.forwarding import forwarded_signals


def run_for_each_rank(target: Target, tokens: Sequence[str], give_up: float | None) -> int:
    """Run the command line of a sink, which says "all" for the rank, for each rank that the run has.

    Returns:
        The largest of their exit codes.

    Raises:
        IncompleteError: there was no run for `give_up` seconds.
    """
    if target.folder is None:
        raise OptionError(f"--rank all needs the run's folder, and {target} is an address: give each rank by itself")
    ranks = asyncio.run(wait_for_ranks(target.folder, check_seconds("--give-up", give_up)))

    def start() -> Iterator[subprocess.Popen[bytes]]:
        for rank in ranks:
            yield subprocess.Popen([*_command(tokens), "--rank", str(rank)])

    with forwarded_signals((signal.SIGINT, signal.SIGTERM), start) as processes:
        return max(_exit_code(process.wait()) for process in processes)


def _command(tokens: Sequence[str]) -> list[str]:
    """The command line of one rank's process, but for its rank."""
    rest = [token for token in tokens if token != "--rank=all"]
    if "--rank" in rest:
        place = rest.index("--rank")
        del rest[place : place + 2]
    return [sys.executable, "-m", "trainwire_sinks", *rest]


def _exit_code(code: int) -> int:
    return code if code >= 0 else 128 - code
