"""What the commands share that run one sink in this process."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from trainwire_protocol.client import Subscription
from trainwire_protocol.errors import OptionError
from trainwire_protocol.run_folder import read_run_name
from trainwire_protocol.target import Target
from trainwire_protocol.wire import Batch, Cursor
from trainwire_sinks.base import NoOptions, Sink
from trainwire_sinks.cli.bars import progress_bar
from trainwire_sinks.cli.length import Length, read_length
from trainwire_sinks.cli.options import Reading, check_seconds, parse_rank
from trainwire_sinks.cli.reading import refuse_gaps
from trainwire_sinks.cli.signals import run_until_signal
from trainwire_sinks.cli.waiting import wait_for_rank
from trainwire_sinks.jetstream.target import remembered
from trainwire_sinks.runner import SinkRunner


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
    target = remembered(target, sink.name, output, rank)
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
        runner = SinkRunner(make_sink, subscribe, output, rank, run=run_name, begun=begun)
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
