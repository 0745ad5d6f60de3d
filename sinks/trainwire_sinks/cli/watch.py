"""`trainwire watch`."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from typing import Annotated

from cyclopts import Parameter

from trainwire_protocol.errors import MissingExtraError, OptionError
from trainwire_protocol.subscription.target import Target, resolve_target
from trainwire_sinks.cli.options import check_seconds, parse_rank
from trainwire_sinks.cli.sink_process import wait_for_rank, wait_for_ranks
from trainwire_sinks.monitor.plain import print_runs
from trainwire_sinks.monitor.ranks import Ranks
from trainwire_sinks.monitor.reader import Reader, logging_into_views
from trainwire_sinks.runtime.exit_codes import ExitCode

MAX_READERS = 64
"""Runs and ranks that can be watched at once."""


def watch(
    *targets: str,
    rank: Annotated[list[str] | None, Parameter(negative="")] = None,
    plain: Annotated[bool, Parameter(negative="")] = False,
    interval: float = 10.0,
    give_up: float | None = None,
) -> int:
    """Watch runs as they go, with their whole history: trainwire watch RUN

    On a terminal it shows state, progress, metrics, log, alerts and sinks, and takes commands; `?` tells the keys.
    Elsewhere it prints lines, and ends with the runs.

    Args:
        targets: Runs' folders, connection files or addresses.
        rank: The process whose events are wanted, or "all"; give it several times for several.
        plain: Print lines, also on a terminal.
        interval: Seconds between two lines that tell the state, where lines are printed.
        give_up: Seconds after which a trainer on another host that has fallen silent is no longer waited for.
    """
    if not targets:
        raise OptionError("watch what? Give a run's folder: trainwire watch RUN")
    if not interval > 0:
        raise OptionError(f"--interval is a number of seconds above 0, not {interval:g}")
    check_seconds("--give-up", give_up)
    is_plain = plain or not _is_terminal()
    readers = _make_readers(targets, ["0"] if rank is None else rank, give_up, stays=not is_plain)
    if not is_plain:
        return _show(readers)
    asyncio.run(_print(readers, interval, give_up))
    return ExitCode.OK


def _make_readers(targets: Sequence[str], ranks: Sequence[str], give_up: float | None, *, stays: bool) -> list[Reader]:
    wanted = [(target, rank) for target in map(resolve_target, targets) for rank in _ranks_of(target, ranks, give_up)]
    if len(wanted) > MAX_READERS:
        raise OptionError(f"that makes {len(wanted)} runs and ranks; at most {MAX_READERS} can be watched at once")
    has_ranks = any(rank for _, rank in wanted)
    beside = {target.folder: Ranks(target.folder) for target, _ in wanted if target.folder}
    return [
        Reader(
            target, rank, _label(target) + (f" rank {rank}" if has_ranks else ""),
            give_up=give_up, stays=stays, ranks=beside[target.folder] if target.folder else None,
        )
        for target, rank in wanted
    ]  # fmt: skip


def _ranks_of(target: Target, ranks: Sequence[str], give_up: float | None) -> Sequence[int]:
    if "all" not in ranks:
        return sorted(set(map(parse_rank, ranks)))
    if target.folder is None:
        raise OptionError(f"--rank all needs the run's folder, and {target} is an address: give each rank by itself")
    return asyncio.run(wait_for_ranks(target.folder, give_up))


def _label(target: Target) -> str:
    return target.folder.absolute().name if target.folder else str(target)


def _is_terminal() -> bool:
    is_terminal = sys.stdin.isatty() and sys.stdout.isatty()
    return is_terminal and os.environ.get("TERM", "dumb") != "dumb"


async def _print(readers: Sequence[Reader], interval: float, give_up: float | None) -> None:
    for reader in readers:
        await wait_for_rank(reader.target, reader.rank, give_up)
    await print_runs(readers, interval)


def _show(readers: Sequence[Reader]) -> int:
    missing = [package for package in ("textual", "textual_plotext") if find_spec(package) is None]
    if missing:
        raise MissingExtraError("trainwire watch on a terminal (lines: --plain)", "watch", " and ".join(missing))
    from trainwire_sinks.monitor.app import WatchApp

    with logging_into_views(readers):
        app = WatchApp(readers)
        app.run()
    # Textual has told of a failure by then, and says so by its code alone.
    return ExitCode.INTERNAL if app.return_code else ExitCode.OK
