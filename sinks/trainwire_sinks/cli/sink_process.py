"""Runs a sink in this process, or in one process for each rank, for the commands `sink` and `replay`."""

from __future__ import annotations

import asyncio
import functools
import logging
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from trainwire_protocol.errors import OptionError
from trainwire_protocol.journal.run_folder import read_run_name
from trainwire_protocol.subscription.subscription import Subscription
from trainwire_protocol.subscription.target import Target
from trainwire_protocol.wire import Batch, Cursor
from trainwire_sinks.cli.options import ReadOptions, check_seconds
from trainwire_sinks.cli.progress_bars import Length, Report, progress_bar, read_length
from trainwire_sinks.cli.ranks import folder_of_all_ranks, parse_rank, wait_for_rank, wait_for_ranks
from trainwire_sinks.cli.record_reader import check_gaps
from trainwire_sinks.cli.signals import run_until_signal
from trainwire_sinks.launch.signal_forwarding import forwarded_signals
from trainwire_sinks.runtime.output import AppendOutput, Output, ReplaceOutput, SeriesOutput
from trainwire_sinks.runtime.runner import SinkRunner
from trainwire_sinks.runtime.sink import NoOptions, Sink

logger = logging.getLogger("trainwire")


def with_options_of(sink: type[Sink], command: Callable[..., int]) -> Callable[..., int]:
    """Return a command whose parameter `options` is replaced by the fields of the sink's own options."""
    kind = type(sink.options)
    command.__annotations__["options"] = Annotated[kind, Parameter(name="*", show=kind is not NoOptions)]
    return command


def folder_of(target: Target) -> Path:
    """Return the run's folder, which is the default output folder.

    Raises:
        OptionError: the target is an address.
    """
    if target.folder is None:
        raise OptionError(f"the output folder is missing, as {target} is an address: name one with --output")
    return target.folder


def run_sink(
    make_sink: Callable[[], Sink],
    target: Target,
    output: Path,
    reading: ReadOptions,
    *,
    superseded_by: int | None = None,
    last_attempt: int | None = None,
    activity: str | None = None,
) -> int:
    """Run a sink on one rank until its run is over or a signal stops it.

    Args:
        make_sink: creates the sink; called again after the sink has failed.
        target: the run.
        output: the output folder.
        reading: which rank, and how long to wait.
        superseded_by: leave out what this attempt and those before it have superseded, also for sinks that keep that.
        last_attempt: end with this attempt.
        activity: what a progress bar says is being done; None shows no bar.

    Returns:
        The exit code.
    """
    rank, give_up = parse_rank(reading.rank), check_seconds("--give-up", reading.give_up)
    sink = make_sink()
    target = target.for_sink(sink.name, output, rank)
    length = read_length(target, rank) if activity else Length({})
    subscriptions: list[Subscription] = []

    def subscribe(cursor: Cursor, rewritten_for: int | None) -> Subscription:
        subscription = _ReportingSubscription(
            target, rank=rank, channels=sink.channels | {"event"}, cursor=cursor,
            superseded_by=rewritten_for if superseded_by is None else superseded_by, last_attempt=last_attempt,
            give_up=give_up, name=sink.name,
        )  # fmt: skip
        subscription.length, subscription.report = length, report
        subscriptions.append(subscription)
        return subscription

    async def run() -> int:
        run_name = read_run_name(target.folder) if target.folder else None
        wait_for_run = functools.partial(wait_for_rank, target, rank, give_up)
        runner = SinkRunner(make_sink, subscribe, output, rank, run=run_name, wait_for_run=wait_for_run)
        return await run_until_signal(runner)

    if activity is None and sys.stderr.isatty():
        logger.info("%s: reading %s%s", sink.name, target, _describe_output(sink.make_output(output, rank)))
    with progress_bar(activity, length.total) as report:
        code = asyncio.run(run())
    for subscription in subscriptions:
        check_gaps(subscription, target)
    return code


def _describe_output(output: Output) -> str:
    if isinstance(output, SeriesOutput):
        return f", writing event files to {output.folder}; to see them: tensorboard --logdir {output.folder}"
    return f", writing to {output.path}" if isinstance(output, (AppendOutput, ReplaceOutput)) else ""


class _ReportingSubscription(Subscription):
    """A subscription that reports its progress."""

    length: Length
    report: Report

    async def __anext__(self) -> Batch:
        batch = await super().__anext__()
        self.report(self.length.done(batch.cursor))
        return batch


def run_for_each_rank(target: Target, tokens: Sequence[str], give_up: float | None) -> int:
    """Run a sink's command line, which contains `--rank all`, in one process for each rank of the run.

    Returns:
        The largest of their exit codes.

    Raises:
        OptionError: the target is an address.
        IncompleteError: no run began within `give_up` seconds.
    """
    folder = folder_of_all_ranks(target)
    ranks = asyncio.run(wait_for_ranks(folder, check_seconds("--give-up", give_up)))
    command = [sys.executable, "-m", "trainwire_sinks", *_without_rank(tokens)]

    def start() -> Iterator[subprocess.Popen[bytes]]:
        for rank in ranks:
            yield subprocess.Popen([*command, "--rank", str(rank)])

    with forwarded_signals((signal.SIGINT, signal.SIGTERM), start) as processes:
        codes = [process.wait() for process in processes]
    return max(code if code >= 0 else 128 - code for code in codes)


def _without_rank(tokens: Sequence[str]) -> list[str]:
    rest = [token for token in tokens if token != "--rank=all"]
    if "--rank" in rest:
        place = rest.index("--rank")
        del rest[place : place + 2]
    return rest
