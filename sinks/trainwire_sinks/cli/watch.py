"""`trainwire watch`."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from typing import Annotated, Final

from cyclopts import Parameter

from trainwire_protocol.errors import MissingExtraError, OptionError
from trainwire_protocol.journal.attempts import LATEST
from trainwire_protocol.subscription.target import Target, resolve_target
from trainwire_sinks.cli.options import check_seconds
from trainwire_sinks.cli.ranks import check_attempt_of, folder_of_all_ranks, parse_rank, wait_for_rank, wait_for_ranks
from trainwire_sinks.monitor.plain import print_runs
from trainwire_sinks.monitor.reader import RankOverviews, Reader, logging_into_views
from trainwire_sinks.runtime.exit_codes import ExitCode

MAX_READERS: Final = 64
"""Maximum number of runs and ranks that can be watched at once."""


def watch(
    *targets: str,
    rank: Annotated[list[str] | None, Parameter(negative="")] = None,
    attempt: int | None = None,
    plain: Annotated[bool, Parameter(negative="")] = False,
    interval: float = 10.0,
    give_up: float | None = None,
) -> int:
    """Watch runs while they are recorded, with their whole history: trainwire watch RUN

    On a terminal, it shows state, progress, metrics, log, alerts and sinks, and sends commands; press ? to list the
    keys. Without a terminal, it prints lines, and exits when the runs are over.

    Args:
        targets: Runs' folders, connection files or addresses.
        rank: The rank to watch, or "all". May be given several times.
        attempt: Show the run as it stood when this attempt ended, with what it had resumed.
        plain: Print lines even on a terminal.
        interval: When printing lines, the seconds between two lines with the state.
        give_up: Seconds after which to stop waiting for a run to begin, or for a silent trainer on another host.
    """
    if not targets:
        raise OptionError("the run is missing: trainwire watch RUN")
    if not interval > 0:
        raise OptionError(f"--interval must be a number of seconds above 0, not {interval:g}")
    check_seconds("--give-up", give_up)
    is_plain = plain or not _is_terminal()
    readers = _make_readers(targets, ["0"] if rank is None else rank, attempt, give_up, stays=not is_plain)
    if not is_plain:
        return _run_app(readers)
    asyncio.run(_print_lines(readers, interval, give_up))
    return ExitCode.OK


def _make_readers(
    targets: Sequence[str], ranks: Sequence[str], attempt: int | None, give_up: float | None, *, stays: bool
) -> list[Reader]:
    pairs = [(target, rank) for target in map(resolve_target, targets) for rank in _ranks_of(target, ranks, give_up)]
    if len(pairs) > MAX_READERS:
        raise OptionError(f"{len(pairs)} runs and ranks are too many: at most {MAX_READERS} can be watched at once")
    has_ranks = any(rank for _, rank in pairs)
    last = LATEST if attempt is None else attempt
    overviews = {target.folder: RankOverviews(target.folder, last) for target, _ in pairs if target.folder}
    readers = []
    for target, rank in pairs:
        check_attempt_of(target, rank, attempt)
        name = target.folder.absolute().name if target.folder else str(target)
        label = f"{name} rank {rank}" if has_ranks else name
        label += "" if attempt is None else f" attempt {attempt}"
        ranks_of_run = overviews[target.folder] if target.folder else None
        readers.append(Reader(target, rank, label, give_up=give_up, stays=stays, ranks=ranks_of_run, attempt=attempt))
    return readers


def _ranks_of(target: Target, ranks: Sequence[str], give_up: float | None) -> Sequence[int]:
    if "all" not in ranks:
        return sorted(set(map(parse_rank, ranks)))
    return asyncio.run(wait_for_ranks(folder_of_all_ranks(target), give_up))


def _is_terminal() -> bool:
    is_terminal = sys.stdin.isatty() and sys.stdout.isatty()
    return is_terminal and os.environ.get("TERM", "dumb") != "dumb"


async def _print_lines(readers: Sequence[Reader], interval: float, give_up: float | None) -> None:
    for reader in readers:
        await wait_for_rank(reader.target, reader.rank, give_up)
    await print_runs(readers, interval)


def _run_app(readers: Sequence[Reader]) -> int:
    missing = [package for package in ("textual", "textual_plotext") if find_spec(package) is None]
    if missing:
        raise MissingExtraError("trainwire watch on a terminal (lines: --plain)", "watch", " and ".join(missing))
    from trainwire_sinks.monitor.app import WatchApp

    with logging_into_views(readers):
        app = WatchApp(readers)
        app.run()
    # Textual prints the traceback of a failure, and reports it by its return code alone.
    return ExitCode.INTERNAL if app.return_code else ExitCode.OK
