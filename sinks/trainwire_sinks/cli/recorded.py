"""What the commands share that read a run without being a sink."""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Sequence

from trainwire_protocol.errors import IncompleteError, OptionError, TargetError
from trainwire_protocol.journal.files import run_in_background
from trainwire_protocol.journal.run_folder import list_ranks
from trainwire_protocol.subscription.subscription import Subscription
from trainwire_protocol.subscription.target import Target
from trainwire_protocol.wire import Batch
from trainwire_sinks.cli.options import parse_rank
from trainwire_sinks.cli.progress_bars import Length, progress_bar, read_length


async def read_recorded(
    target: Target, rank: int, channels: Collection[str], what: str | None = None
) -> AsyncIterator[Batch]:
    """The batches that are recorded by now and that count, with a progress bar that says `what` is done with them.

    Raises:
        TargetError: there is no run.
        IncompleteError: there is more that could not be had; raised once everything was given that could.
    """
    length = await run_in_background(read_length, target, rank) if what else Length({})
    subscription = Subscription(target, rank=rank, channels=channels, follow=False, skip_superseded=True)
    with progress_bar(what, length.total) as tell:
        async with subscription as batches:
            async for batch in batches:
                tell(length.done(batch.cursor))
                yield batch
    refuse_gaps(subscription, target)


def refuse_gaps(subscription: Subscription, target: Target) -> None:
    """Raise `IncompleteError` if the subscription has missed something that no source holds any more."""
    if subscription.gaps:
        raise IncompleteError(
            f"what there is was read, but the record of {target} lacks events: trainwire verify names them"
        )


def find_ranks(target: Target, rank: str) -> Sequence[int]:
    """The ranks that `--rank` names: one, or "all" that there are.

    Raises:
        OptionError: it is no number, or the target has no folder that says which there are.
        TargetError: there are none.
    """
    if rank != "all":
        return [parse_rank(rank)]
    if target.folder is None:
        raise OptionError(f"--rank all needs the run's folder, and {target} is an address: give each rank by itself")
    ranks = list_ranks(target.folder)
    if not ranks:
        raise TargetError(f"there is no run in {target.folder}: it has no journal")
    return ranks
