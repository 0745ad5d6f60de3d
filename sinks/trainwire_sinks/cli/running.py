"""What the commands share that run one sink in this process."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

from trainwire_protocol.client import Subscription
from trainwire_protocol.errors import IncompleteError, OptionError
from trainwire_protocol.run_folder import read_run_name
from trainwire_protocol.target import Target
from trainwire_protocol.wire import Cursor
from trainwire_sinks.base import Sink
from trainwire_sinks.cli.options import check_seconds
from trainwire_sinks.cli.signals import run_until_signal
from trainwire_sinks.cli.waiting import wait_for_rank
from trainwire_sinks.runner import SinkRunner


def run_sink(
    make_sink: Callable[[], Sink],
    target: Target,
    output: Path,
    rank: int,
    *,
    give_up: float | None,
    skip_superseded: bool = False,
) -> int:
    """Run a sink until its run is over or a signal comes; returns the exit code.

    `skip_superseded` leaves out what a resumed run has superseded, also for sinks that keep it.
    """
    check_seconds("--give-up", give_up)
    sink = make_sink()
    subscriptions: list[Subscription] = []

    def subscribe(cursor: Cursor, skip: bool) -> Subscription:
        subscription = Subscription(
            target,
            rank=rank,
            channels=sink.channels | {"event"},
            cursor=cursor,
            skip_superseded=skip or skip_superseded,
            give_up=give_up,
            name=sink.name,
        )
        subscriptions.append(subscription)
        return subscription

    async def begun() -> None:
        await wait_for_rank(target, rank, give_up)

    async def run() -> int:
        run_name = read_run_name(target.folder) if target.folder else None
        runner = SinkRunner(make_sink, subscribe, output, rank, run=run_name, begun=begun)
        return await run_until_signal(runner)

    code = asyncio.run(run())
    if any(subscription.gaps for subscription in subscriptions):
        raise IncompleteError(
            f"{sink.name} has written what there is, but the record of {target} lacks events: "
            "trainwire verify names them"
        )
    return code


def folder_of(target: Target) -> Path:
    """The run's folder, where output goes if no other is given."""
    if target.folder is None:
        raise OptionError(f"where to? {target} names no folder: give one with --output")
    return target.folder
