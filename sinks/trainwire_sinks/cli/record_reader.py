"""Reads what a run has recorded so far, for commands that run no sink."""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection

from trainwire_protocol.errors import IncompleteError
from trainwire_protocol.journal.attempts import LATEST
from trainwire_protocol.journal.files import run_in_background
from trainwire_protocol.subscription.subscription import Subscription
from trainwire_protocol.subscription.target import Target
from trainwire_protocol.wire import Batch
from trainwire_sinks.cli.progress_bars import Length, progress_bar, read_length


async def read_record(
    target: Target, rank: int, channels: Collection[str], activity: str | None = None, *, attempt: int = LATEST
) -> AsyncIterator[Batch]:
    """Yield the batches that a rank has recorded so far, without superseded events.

    Args:
        target: the run.
        rank: the rank to read.
        channels: the channels to read.
        activity: what a progress bar says is being done; None shows no bar.
        attempt: read the run as it stood when this attempt ended.

    Raises:
        TargetError: there is no run, or it has no such attempt.
        IncompleteError: events are missing; raised after all others were yielded.
    """
    length = await run_in_background(read_length, target, rank) if activity else Length({})
    subscription = Subscription(
        target, rank=rank, channels=channels, follow=False, superseded_by=attempt, last_attempt=attempt
    )
    with progress_bar(activity, length.total) as report:
        async with subscription as batches:
            async for batch in batches:
                report(length.done(batch.cursor))
                yield batch
    check_gaps(subscription, target)


def check_gaps(subscription: Subscription, target: Target) -> None:
    """Check that a subscription, read to its end, has missed no events.

    Raises:
        IncompleteError: events are missing, and no source holds them any longer.
    """
    if subscription.gaps:
        raise IncompleteError(
            f"the record of {target} is missing events; all others were read. Run trainwire verify to list them"
        )
