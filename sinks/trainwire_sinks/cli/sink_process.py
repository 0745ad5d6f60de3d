"""What the commands share that run one sink in this process."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Final

from cyclopts import Parameter

from trainwire_protocol.errors import OptionError, ProtocolError, TargetError
from trainwire_protocol.journal.files import run_in_background
from trainwire_protocol.journal.run_folder import list_attempts, list_ranks, read_run_name
from trainwire_protocol.subscription.follower import Watchdog
from trainwire_protocol.subscription.subscription import Subscription
from trainwire_protocol.subscription.target import Target
from trainwire_protocol.transport.connection import Connection, read_connection
from trainwire_protocol.wire import Batch, Cursor
from trainwire_sinks.cli.options import Reading, check_seconds, parse_rank
from trainwire_sinks.cli.progress_bars import Length, progress_bar, read_length
from trainwire_sinks.cli.recorded import refuse_gaps
from trainwire_sinks.cli.signals import run_until_signal
from trainwire_sinks.launch.signal_forwarding import forwarded_signals
from trainwire_sinks.runtime.base import NoOptions, Sink
from trainwire_sinks.runtime.runner import SinkRunner

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
    watchdog = Watchdog(str(target), give_up)
    while not await run_in_background(_has_begun, target.folder, rank):
        watchdog.check("the run has not started", warn_at_once=True)
        await asyncio.sleep(POLL_SECONDS)


async def wait_for_ranks(folder: Path, give_up: float | None) -> range:
    """Wait until a run has begun; returns the ranks that it has, as far as its folder tells.

    Raises:
        IncompleteError: there was no run for `give_up` seconds.
    """
    watchdog = Watchdog(str(folder), give_up)
    while not (count := await run_in_background(count_ranks, folder)):
        watchdog.check("the run has not started", warn_at_once=True)
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


def run_sink(
    make_sink: Callable[[], Sink],
    target: Target,
    output: Path,
    reading: Reading,
    *,
    skip_superseded: bool = False,
    what: str | None = None,
) -> int:
    """Run a sink on one rank until its run is over or a signal comes; returns the exit code.

    `skip_superseded` leaves out what a resumed run has superseded, also for sinks that keep it. `what` is what a
    progress bar says is done, if there is to be one.
    """
    rank, give_up = parse_rank(reading.rank), check_seconds("--give-up", reading.give_up)
    sink = make_sink()
    target = target.for_sink(sink.name, output, rank)
    length = read_length(target, rank) if what else Length({})
    subscriptions: list[Subscription] = []

    def subscribe(cursor: Cursor, skip: bool) -> Subscription:
        subscription = _Watched(
            target,
            rank=rank,
            channels=sink.channels | {"event"},
            cursor=cursor,
            skip_superseded=skip or skip_superseded,
            give_up=give_up,
            name=sink.name,
        )
        subscription.on_cursor = lambda place: tell(length.done(place))
        subscriptions.append(subscription)
        return subscription

    async def begun() -> None:
        await wait_for_rank(target, rank, give_up)

    async def run() -> int:
        run_name = read_run_name(target.folder) if target.folder else None
        runner = SinkRunner(make_sink, subscribe, output, rank, run=run_name, wait_for_run=begun)
        return await run_until_signal(runner)

    with progress_bar(what, length.total) as tell:
        code = asyncio.run(run())
    for subscription in subscriptions:
        refuse_gaps(subscription, target)
    return code


class _Watched(Subscription):
    """A subscription that says how far it is read."""

    on_cursor: Callable[[Cursor], None]

    async def __anext__(self) -> Batch:
        batch = await super().__anext__()
        self.on_cursor(batch.cursor)
        return batch


def with_options_of(sink: type[Sink], command: Callable[..., int]) -> Callable[..., int]:
    """A command, with the fields of the sink's own options in the place of its parameter `options`."""
    kind = type(sink.options)
    command.__annotations__["options"] = Annotated[kind, Parameter(name="*", show=kind is not NoOptions)]
    return command


def folder_of(target: Target) -> Path:
    """The run's folder, where output goes if no other is given."""
    if target.folder is None:
        raise OptionError(f"where to? {target} names no folder: give one with --output")
    return target.folder


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
