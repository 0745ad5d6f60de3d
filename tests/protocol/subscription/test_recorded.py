"""A subscription that does not follow a run: it reads what is recorded, and ends."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.publisher import Publisher, run
from support.recorder import frames

from trainwire_protocol.errors import IncompleteError, TargetError
from trainwire_protocol.journal.attempts import LATEST
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
            assert frames(await read(Target(tmp_path), superseded_by=LATEST)) == frames(kept)

    run(main())


def test_a_missing_run_is_not_waited_for(tmp_path: Path) -> None:
    """A folder without a run, and an address without a publisher, are errors at once."""

    async def main() -> None:
        with pytest.raises(TargetError, match="there is no run of rank 0"):
            await read(Target(tmp_path))
        with pytest.raises(IncompleteError, match="no publisher answers"):
            await read(Target(None, f"ipc://{tmp_path}/nobody"))

    run(main())


STARTS: list[dict[str, object] | None] = [None, {"attempt": 0, "seq": 3}, None, {"attempt": 0, "seq": 3}]
"""A run, resumed, started anew, and resumed from its first start: for each attempt the position it resumes from."""

AS_OF = {0: {0: 10}, 1: {0: 3, 1: 9}, 2: {2: 9}, 3: {0: 3, 3: 9}}
"""For each attempt, what the run consisted of when it ended: the last seq of each of its attempts."""


async def record_starts(folder: Path) -> list[Batch]:
    """Record each attempt in batches of one event, and leave the publisher of the last one running."""
    recorded = []
    for number, origin in enumerate(STARTS):
        async with Publisher(folder) as publisher:
            if number:
                publisher.happened("run/resumed", **{"from": origin})
            for _ in range(8 if number else 10):
                publisher.scalars()
            publisher.end()
            recorded += publisher.recorded
    return recorded


@pytest.mark.parametrize("follow", [True, False])
@pytest.mark.parametrize("attempt", AS_OF)
def test_a_run_is_read_as_it_stood_when_an_attempt_ended(tmp_path: Path, attempt: int, follow: bool) -> None:
    """An earlier attempt is read with what it resumed, and nothing later; following ends with it."""

    async def main() -> None:
        recorded = await record_starts(tmp_path)
        kept = [b for b in recorded if b.cursor.seq <= AS_OF[attempt].get(b.cursor.attempt, -1)]
        async with Subscription(
            Target(tmp_path), follow=follow, superseded_by=attempt, last_attempt=attempt
        ) as subscription:
            assert frames([batch async for batch in subscription]) == frames(kept)

    run(main())


def test_attempts_after_the_one_that_supersedes_are_read_whole(tmp_path: Path) -> None:
    """A sink that rewrites its output for one attempt still sees all that later attempts supersede."""

    async def main() -> None:
        recorded = await record_starts(tmp_path)
        kept = [b for b in recorded if b.cursor.attempt >= 1 or b.cursor.seq <= 3]
        assert frames(await read(Target(tmp_path), superseded_by=1)) == frames(kept)

    run(main())


@pytest.mark.parametrize("by_address", [False, True])
def test_an_attempt_can_be_read_from_its_publisher(tmp_path: Path, by_address: bool) -> None:
    """A remote reader asks the publisher of the last attempt, and is told if there is no such attempt."""

    async def main() -> None:
        async with Publisher(tmp_path) as first:
            first.scalars(10)
            first.end()
        async with Publisher(tmp_path) as second:
            second.happened("run/resumed", **{"from": None})
            target = Target(None, second.connection.request) if by_address else Target(tmp_path)
            assert frames(await read(target, superseded_by=0, last_attempt=0)) == frames(first.recorded)
            for missing in (2, -1):
                with pytest.raises(TargetError, match=f"has no attempt {missing}; it has attempts 0 to 1"):
                    await read(target, superseded_by=missing, last_attempt=missing)

    run(main())
