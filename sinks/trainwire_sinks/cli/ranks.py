"""Finds the ranks that the option `--rank` names, waits for them to begin, and checks their attempts."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from trainwire_protocol.errors import OptionError, ProtocolError, TargetError
from trainwire_protocol.journal.attempts import check_attempt
from trainwire_protocol.journal.files import run_in_background
from trainwire_protocol.journal.run_folder import list_attempts, list_ranks
from trainwire_protocol.subscription.follower import Watchdog
from trainwire_protocol.subscription.target import Target, suggest_run
from trainwire_protocol.transport.connection import Connection, read_connection

POLL_SECONDS: Final = 0.1


def parse_rank(text: str) -> int:
    """Return the rank that `--rank` gives.

    Raises:
        OptionError: the text is not a number.
    """
    if not (text.isascii() and text.isdecimal()):
        raise OptionError(f'--rank must be a number, 0 or more, or "all", not {text!r}')
    return int(text)


def folder_of_all_ranks(target: Target) -> Path:
    """Return the run's folder, which `--rank all` needs to list the ranks.

    Raises:
        OptionError: the target is an address.
    """
    if target.folder is None:
        raise OptionError(f"--rank all needs the run's folder, and {target} is an address: name each rank instead")
    return target.folder


def find_ranks(target: Target, rank: str) -> Sequence[int]:
    """Return the ranks that `--rank` names: one, or with "all" every rank of the run.

    Raises:
        OptionError: `rank` is neither a number nor "all", or is "all" and the target is an address.
        TargetError: the folder contains no run.
    """
    if rank != "all":
        return [parse_rank(rank)]
    folder = folder_of_all_ranks(target)
    ranks = list_ranks(folder)
    if not ranks:
        raise TargetError(f"there is no run in {folder}: it has no journal{suggest_run(folder)}")
    return ranks


def check_attempt_of(target: Target, rank: int, attempt: int | None) -> None:
    """Check that a rank has the attempt that `--attempt` names; of an address, its subscription checks that.

    Raises:
        TargetError: it does not; the message lists the attempts.
    """
    if attempt is not None and target.folder:
        check_attempt(attempt, [found.number for found in list_attempts(target.folder, rank)], target)


async def wait_for_rank(target: Target, rank: int, give_up: float | None) -> None:
    """Wait until a rank of a run has begun. For an address, return at once: its subscription waits.

    Raises:
        TargetError: the run does not have this rank.
        IncompleteError: no run began within `give_up` seconds.
    """
    if target.folder is None:
        return
    watchdog, suggestion = Watchdog(str(target), give_up), suggest_run(target.folder)
    while not await run_in_background(_has_begun, target.folder, rank):
        watchdog.check(f"the run has not started{suggestion}", warn_at_once=True)
        await asyncio.sleep(POLL_SECONDS)


async def wait_for_ranks(folder: Path, give_up: float | None) -> range:
    """Wait until a run has begun, and return its ranks.

    Raises:
        IncompleteError: no run began within `give_up` seconds.
    """
    watchdog, suggestion = Watchdog(str(folder), give_up), suggest_run(folder)
    while not (count := await run_in_background(_count_ranks, folder)):
        watchdog.check(f"the run has not started{suggestion}", warn_at_once=True)
        await asyncio.sleep(POLL_SECONDS)
    return range(count)


def _has_begun(folder: Path, rank: int) -> bool:
    if list_attempts(folder, rank):
        return True
    ranks = list_ranks(folder)
    if ranks and (_is_over(folder, ranks) or _has_fewer_ranks(folder, rank)):
        names = ", ".join(map(str, ranks))
        raise TargetError(f"the run in {folder} has no rank {rank}; it has rank {names}")
    return False


def _is_over(folder: Path, ranks: list[int]) -> bool:
    attempts = [attempts[-1] for rank in ranks if (attempts := list_attempts(folder, rank))]
    return bool(attempts) and not any(attempt.is_held() for attempt in attempts)


def _has_fewer_ranks(folder: Path, rank: int) -> bool:
    """Return whether a live process of the run reports a world size that excludes `rank`."""
    return any(found.world_size <= rank and found.is_reachable() for found in _connections(folder))


def _count_ranks(folder: Path) -> int:
    """Return the number of ranks, from the journal and the connection files."""
    counts = [rank + 1 for rank in list_ranks(folder)]
    return max([*counts, *(found.world_size for found in _connections(folder))], default=0)


def _connections(folder: Path) -> Iterator[Connection]:
    for path in folder.glob("connection-rank*.json"):
        with contextlib.suppress(ProtocolError):
            yield read_connection(path)
