"""`--rank all`: one process for each rank of a run."""

from __future__ import annotations

import logging
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

from trainwire_protocol.connection import read_connection
from trainwire_protocol.errors import OptionError, ProtocolError
from trainwire_protocol.run_folder import list_ranks
from trainwire_protocol.target import Target

logger = logging.getLogger("trainwire")

POLL_SECONDS = 0.1


def run_for_each_rank(target: Target, tokens: Sequence[str]) -> int:
    """Run the command line of a sink, which says "all" for the rank, for each rank that the run has.

    Returns:
        The largest of their exit codes.
    """
    if target.folder is None:
        raise OptionError(f"--rank all needs the run's folder, and {target} is an address: give each rank by itself")
    ranks = _wait_for_ranks(target.folder)
    processes = [subprocess.Popen([*_command(tokens), "--rank", str(rank)]) for rank in ranks]

    def forward(number: int, _: FrameType | None) -> None:
        for process in processes:
            process.send_signal(number)

    before = {number: signal.signal(number, forward) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        return max(_exit_code(process.wait()) for process in processes)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _command(tokens: Sequence[str]) -> list[str]:
    """The command line of one rank's process, but for its rank."""
    rest = [token for token in tokens if token != "--rank=all"]
    if "--rank" in rest:
        place = rest.index("--rank")
        del rest[place : place + 2]
    return [sys.executable, "-m", "trainwire_sinks", *rest]


def _wait_for_ranks(folder: Path) -> range:
    is_told = False
    while not (count := _count_ranks(folder)):
        if not is_told:
            logger.info("no run in %s yet; waiting for one", folder)
            is_told = True
        time.sleep(POLL_SECONDS)
    return range(count)


def _count_ranks(folder: Path) -> int:
    """How many ranks a run has, as far as its folder tells."""
    counts = [rank + 1 for rank in list_ranks(folder)]
    for path in folder.glob("connection-rank*.json"):
        try:
            counts.append(read_connection(path).world_size)
        except ProtocolError as error:
            logger.warning("%s", error)
    return max(counts, default=0)


def _exit_code(code: int) -> int:
    return code if code >= 0 else 128 - code
