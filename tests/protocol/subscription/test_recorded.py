"""A subscription that does not follow a run: it reads what is recorded, and ends."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.publisher import Publisher, run
from support.recorder import frames

from trainwire_protocol.errors import IncompleteError, TargetError
from trainwire_protocol.subscription.subscription import Subscription
from trainwire_protocol.subscription.target import Target
from trainwire_protocol.wire import Batch


async def read(target: Target, **options: object) -> list[Batch]:
    async with Subscription(target, follow=False, **options) as subscription:  # type: ignore[arg-type]
        return [batch async for batch in subscription]


@pytest.mark.parametrize("by_address", [False, True])
def test_a_live_run_is_read_to_its_current_end(tmp_path: Path, by_address: bool) -> None:
    """The subscription ends after what is recorded now, from the journal and by fetch."""

    async def main() -> None:
        async with Publisher(tmp_path) as publisher:
            recorded = [publisher.scalars(10) for _ in range(5)]
            target = Target(None, publisher.connection.request) if by_address else Target(tmp_path)
            assert frames(await read(target)) == frames(recorded)

    run(main())


def test_all_attempts_of_a_resumed_run_are_read(tmp_path: Path) -> None:
    """All attempts are read, even while the last one continues."""

    async def main() -> None:
        async with Publisher(tmp_path) as first:
            first.scalars(10)
            first.end()
        async with Publisher(tmp_path) as second:
            second.happened("run/resumed", **{"from": {"attempt": 0, "seq": 9}})
            second.scalars(10)
            kept = [first.recorded[0], *second.recorded]
            assert frames(await read(Target(tmp_path))) == frames([*first.recorded, *second.recorded])
            assert frames(await read(Target(tmp_path), skip_superseded=True)) == frames(kept)

    run(main())


def test_a_missing_run_is_not_waited_for(tmp_path: Path) -> None:
    """A folder without a run, and an address without a publisher, are errors at once."""

    async def main() -> None:
        with pytest.raises(TargetError, match="there is no run of rank 0"):
            await read(Target(tmp_path))
        with pytest.raises(IncompleteError, match="no publisher answers"):
            await read(Target(None, f"ipc://{tmp_path}/nobody"))

    run(main())
