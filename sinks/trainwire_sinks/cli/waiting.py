"""What a sink waits for before it writes anything: TARGET may be a slip of the pen."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from trainwire_protocol.background import run_in_background
from trainwire_protocol.connection import Connection, read_connection
from trainwire_protocol.errors import ProtocolError, TargetError
from trainwire_protocol.patience import Patience
from trainwire_protocol.run_folder import list_attempts, list_ranks
from trainwire_protocol.target import Target

POLL_SECONDS: Final = 0.1


async def wait_for_rank(target: Target, rank: int, give_up: float | None) -> None:
    """Wait until a rank of a run has begun.

    Raises:
        TargetError: the run has no such rank.
        IncompleteError: there was no run for `give_up` seconds.
    """
    # Of an address it is known only by asking whether anybody is there, and its reader does that.
    if target.folder is None:
        return
    patience = Patience(str(target), give_up)
    while not await run_in_background(_has_begun, target.folder, rank):
        patience.wait("no run has begun there", at_once=True)
        await asyncio.sleep(POLL_SECONDS)


async def wait_for_ranks(folder: Path, give_up: float | None) -> range:
    """Wait until a run has begun; returns the ranks that it has, as far as its folder tells.

    Raises:
        IncompleteError: there was no run for `give_up` seconds.
    """
    patience = Patience(str(folder), give_up)
    while not (count := await run_in_background(count_ranks, folder)):
        patience.wait("no run has begun there", at_once=True)
        await asyncio.sleep(POLL_SECONDS)
    return range(count)


def _has_begun(folder: Path, rank: int) -> bool:
    if list_attempts(folder, rank):
        return True
    ranks = list_ranks(folder)
    if ranks and (_is_over(folder, ranks) or _is_too_small(folder, rank)):
        names = ", ".join(map(str, ranks))
        raise TargetError(f"the run in {folder} has no rank {rank}: it has rank {names}")
    return False


def _is_over(folder: Path, ranks: list[int]) -> bool:
    attempts = [attempts[-1] for rank in ranks if (attempts := list_attempts(folder, rank))]
    return bool(attempts) and not any(attempt.is_held() for attempt in attempts)


def _is_too_small(folder: Path, rank: int) -> bool:
    """Whether a run that goes on is known to have fewer ranks."""
    return any(found.world_size <= rank and found.is_reachable() for found in _connections(folder))


def count_ranks(folder: Path) -> int:
    """How many ranks a run has, as far as its folder tells."""
    counts = [rank + 1 for rank in list_ranks(folder)]
    return max([*counts, *(found.world_size for found in _connections(folder))], default=0)


def _connections(folder: Path) -> Iterator[Connection]:
    for path in folder.glob("connection-rank*.json"):
        with contextlib.suppress(ProtocolError):
            yield read_connection(path)
