"""A subscription delivers every requested event, in order and once, whenever it starts and however events arrive."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import pytest
from blockbuster import blockbuster_ctx
from support.publisher import Publisher, run
from support.recorder import frames

from trainwire_protocol.events import Event
from trainwire_protocol.journal.attempts import LATEST
from trainwire_protocol.subscription.history import FETCH_QUIET_SECONDS
from trainwire_protocol.subscription.subscription import Subscription
from trainwire_protocol.subscription.target import Target
from trainwire_protocol.transport.auth import ClientKeys, KeyPair, ServerKeys
from trainwire_protocol.transport.server import MAX_PUBLISHED_BYTES
from trainwire_protocol.wire import START, Batch, Cursor

EVERYTHING = ("event", "media")


async def collect(subscription: Subscription) -> list[Batch]:
    """Return all batches until the run is over."""
    return [batch async for batch in subscription]


async def take(subscription: Subscription, count: int) -> list[Batch]:
    """Return the next batches."""
    return [await anext(subscription) for _ in range(count)]


def expected(recorded: Sequence[Batch], channels: Collection[str] = EVERYTHING, after: Cursor = START) -> list[Any]:
    """Return what a subscription must deliver of the recorded batches."""
    return frames([batch for batch in recorded if batch.header.channel in channels and batch.cursor > after])


def is_complete(subscription: Subscription) -> bool:
    """Return whether the subscription found no gaps and nothing malformed."""
    return subscription.gaps == 0 and subscription.malformed == 0


@pytest.mark.parametrize("use_journal", [True, False])
def test_live_from_the_start(tmp_path: Path, use_journal: bool) -> None:
    """A reader that started before the first event gets all of them, and then ends."""

    async def main() -> None:
        async with (
            Publisher(tmp_path) as publisher,
            Subscription(Target(tmp_path), channels=EVERYTHING, use_journal=use_journal) as subscription,
        ):
            reading = asyncio.ensure_future(collect(subscription))
            for number in range(50):
                publisher.scalars(3, EVERYTHING[number % 2])
                await asyncio.sleep(0.002)
            publisher.end()
            assert frames(await reading) == expected(publisher.recorded)
            assert is_complete(subscription)

    run(main())


@pytest.mark.parametrize("use_journal", [True, False])
@pytest.mark.parametrize("channels", [("event",), ("media",), EVERYTHING])
def test_late_reader_gets_the_past(tmp_path: Path, channels: tuple[str, ...], use_journal: bool) -> None:
    """A reader that starts late gets the past, then the present, of the channels it requests."""

    async def main() -> None:
        async with Publisher(tmp_path) as publisher:
            for number in range(40):
                publisher.scalars(2, EVERYTHING[number % 2])
            async with Subscription(Target(tmp_path), channels=channels, use_journal=use_journal) as subscription:
                past = await take(subscription, 20 * len(channels))
                reading = asyncio.ensure_future(collect(subscription))
                for number in range(20):
                    publisher.scalars(2, EVERYTHING[number % 2])
                    await asyncio.sleep(0.001)
                publisher.end()
                assert frames(past + await reading) == expected(publisher.recorded, channels)
                assert is_complete(subscription)

    run(main())


@pytest.mark.parametrize("use_journal", [True, False])
def test_from_any_cursor(tmp_path: Path, use_journal: bool) -> None:
    """From the cursor of any batch, exactly the events after it are delivered."""

    async def main() -> None:
        async with Publisher(tmp_path) as publisher:
            for number in range(10):
                publisher.scalars(2, EVERYTHING[number % 3 == 2])
            publisher.end()
            for cursor in [START, *(batch.cursor for batch in publisher.recorded)]:
                async with Subscription(
                    Target(tmp_path), channels=EVERYTHING, cursor=cursor, use_journal=use_journal
                ) as subscription:
                    assert frames(await collect(subscription)) == expected(publisher.recorded, after=cursor)

    run(main())


def test_address_is_enough(tmp_path: Path) -> None:
    """A reader that has only the publisher's request endpoint gets everything."""

    async def main() -> None:
        async with Publisher(tmp_path) as publisher:
            publisher.scalars(5)
            async with Subscription(Target(None, publisher.server.request_endpoint)) as subscription:
                first = await anext(subscription)
                publisher.scalars(5)
                publisher.end()
                assert frames([first, *await collect(subscription)]) == expected(publisher.recorded)

    run(main())


def test_over_tcp_with_keys(tmp_path: Path) -> None:
    """Over TCP a reader with an allowed key gets everything, from the live feed and by `fetch`."""
    server, client = KeyPair.make(), KeyPair.make()

    async def main() -> None:
        async with Publisher(tmp_path, keys=ServerKeys(server, frozenset({client.public}))) as publisher:
            keys = ClientKeys(server.public, client)
            connection = publisher.connection.__class__(**{**vars(publisher.connection), "keys": keys})
            target = Target(None, connection.request, connection)
            publisher.scalars(5)
            async with Subscription(target) as subscription:
                first = await anext(subscription)
                publisher.scalars(5)
                publisher.end()
                assert frames([first, *await collect(subscription)]) == expected(publisher.recorded)

    run(main())


@pytest.mark.parametrize("use_journal", [True, False])
def test_from_now(tmp_path: Path, use_journal: bool) -> None:
    """A live view gets everything that is recorded from now on, without a gap, and nothing from the past."""

    async def main() -> None:
        async with Publisher(tmp_path) as publisher:
            past = [publisher.scalars() for _ in range(20)]
            async with Subscription(Target(tmp_path), from_now=True, use_journal=use_journal) as subscription:
                reading = asyncio.ensure_future(anext(subscription))
                while not reading.done():
                    publisher.scalars()
                    await asyncio.sleep(0.01)
                publisher.end()
                found = [await reading, *await collect(subscription)]
            assert found[0].header.seq >= len(past)
            assert frames(found) == frames(publisher.recorded[-len(found) :])

    run(main())


def test_from_now_of_a_finished_run_delivers_nothing(tmp_path: Path) -> None:
    """A live view of a finished run ends without delivering the past."""

    async def main() -> None:
        async with Publisher(tmp_path) as publisher:
            publisher.scalars(5)
            publisher.end()
        async with Subscription(Target(tmp_path), from_now=True) as subscription:
            assert await collect(subscription) == []

    run(main())


@pytest.mark.parametrize("use_journal", [True, False])
def test_bursts_beyond_the_high_water_mark_lose_nothing(tmp_path: Path, use_journal: bool) -> None:
    """With queues of ten messages, 200,000 events in bursts on two channels all arrive, in order and once."""

    async def main() -> None:
        async with (
            Publisher(tmp_path, high_water_mark=10) as publisher,
            Subscription(
                Target(tmp_path), channels=EVERYTHING, use_journal=use_journal, high_water_mark=10
            ) as subscription,
        ):
            reading = asyncio.ensure_future(collect(subscription))
            for burst in range(10):
                for number in range(200):
                    publisher.scalars(100, "media" if (burst + number) % 7 == 0 else "event")
                await asyncio.sleep(0.05)
            publisher.end()
            assert frames(await reading) == expected(publisher.recorded)
            assert is_complete(subscription)

    run(main())


@pytest.mark.parametrize("use_journal", [True, False])
def test_batches_too_large_to_publish_arrive(tmp_path: Path, use_journal: bool) -> None:
    """A batch that is not published is read from the history, in order, even if it is the last of its channel."""

    async def main() -> None:
        async with (
            Publisher(tmp_path) as publisher,
            Subscription(Target(tmp_path), channels=EVERYTHING, use_journal=use_journal) as subscription,
        ):
            reading = asyncio.ensure_future(collect(subscription))
            for size in (MAX_PUBLISHED_BYTES, 3 << 20, 100):
                image = Event("sample", {"data": bytes(size), "format": "png"}, "image", 1.75e9, 1)
                publisher.scalars(2)
                assert len(publisher.record([image], "media").body) > size
                await asyncio.sleep(0.05)
            publisher.end()
            assert frames(await reading) == expected(publisher.recorded)
            assert is_complete(subscription)

    run(main())


async def three_attempts(folder: Path) -> list[Batch]:
    """Record a run of three attempts, each resumed from within the previous one; only the third has an end."""
    recorded: list[Batch] = []
    for number in range(3):
        async with Publisher(folder, take_over=True) as publisher:
            if number:
                publisher.happened("run/resumed", **{"from": {"attempt": number - 1, "seq": 3}})
            for _ in range(5):
                publisher.scalars(2)
            if number == 2:
                publisher.end()
            recorded += publisher.recorded
    return recorded


def test_attempts_follow_each_other(tmp_path: Path) -> None:
    """All attempts are delivered one after the other, from any cursor in any of them."""

    async def main() -> None:
        recorded = await three_attempts(tmp_path)
        for cursor in (START, Cursor(0, 9), Cursor(1, 4), Cursor(2, 2)):
            async with Subscription(Target(tmp_path), cursor=cursor) as subscription:
                assert frames(await collect(subscription)) == expected(recorded, after=cursor)

    run(main())


def test_superseded_events_can_be_skipped(tmp_path: Path) -> None:
    """With `superseded_by`, each attempt is delivered only up to where the next one resumed from."""

    async def main() -> None:
        recorded = await three_attempts(tmp_path)
        async with Subscription(Target(tmp_path), superseded_by=LATEST) as subscription:
            kept = [batch for batch in recorded if batch.header.attempt == 2 or batch.cursor.seq <= 3]
            assert frames(await collect(subscription)) == expected(kept)

    run(main())


@pytest.mark.parametrize("use_journal", [True, False])
def test_attempts_are_followed_live(tmp_path: Path, use_journal: bool) -> None:
    """A reader moves from one live publisher to the next at another endpoint, and acknowledges there."""

    async def main() -> None:
        recorded: list[Batch] = []
        async with (
            contextlib.AsyncExitStack() as publishers,
            Subscription(Target(tmp_path), name="loss-file", use_journal=use_journal) as subscription,
        ):
            for number in range(3):
                publisher = await publishers.enter_async_context(Publisher(tmp_path, take_over=True))
                reading = asyncio.ensure_future(take(subscription, 20))
                for _ in range(20):
                    publisher.scalars(2)
                    await asyncio.sleep(0.005)
                recorded += await reading
                assert frames(recorded[-20:]) == expected(publisher.recorded)
                while "loss-file" not in publisher.server.responder.sinks:
                    await subscription.acknowledge(recorded[-1].cursor)
                assert publisher.server.responder.sinks["loss-file"].cursor == Cursor(number, 39)
            publisher.end()
            assert len(await collect(subscription)) == 1
            assert is_complete(subscription)

    run(main())


@pytest.mark.parametrize("use_journal", [True, False])
def test_cancelling_a_pending_batch_loses_nothing(tmp_path: Path, use_journal: bool) -> None:
    """Cancelling the wait for the next batch at any moment loses nothing."""

    async def main() -> None:
        async with (
            Publisher(tmp_path) as publisher,
            Subscription(Target(tmp_path), use_journal=use_journal) as subscription,
        ):
            found: list[Batch] = []
            timeouts = 0

            async def record() -> None:
                for _ in range(200):
                    publisher.scalars(2)
                    await asyncio.sleep(0.001)
                publisher.end()

            recording = asyncio.ensure_future(record())
            while True:
                try:
                    found.append(await asyncio.wait_for(anext(subscription), 0.0005 * (timeouts % 3)))
                except TimeoutError:
                    timeouts += 1
                except StopAsyncIteration:
                    break
            await recording
            assert timeouts > 10
            assert frames(found) == expected(publisher.recorded)

    run(main())


def test_iteration_stays_ended(tmp_path: Path) -> None:
    """After the last batch, each further `anext` raises StopAsyncIteration."""

    async def main() -> None:
        async with Publisher(tmp_path) as publisher:
            publisher.end()
        async with Subscription(Target(tmp_path)) as subscription:
            assert len(await collect(subscription)) == 1
            for _ in range(3):
                with pytest.raises(StopAsyncIteration):
                    await anext(subscription)

    run(main())


def test_reader_can_stop_early(tmp_path: Path) -> None:
    """A subscription can be closed before its first batch or in the middle."""

    async def main() -> None:
        async with Publisher(tmp_path) as publisher:
            for _ in range(500):
                publisher.scalars()
            for count in (0, 1, 100):
                async with Subscription(Target(tmp_path)) as subscription:
                    await take(subscription, count)

    run(main())


def test_ranks_are_read_one_by_one(tmp_path: Path) -> None:
    """A reader of one rank gets only that rank's events."""

    async def main() -> None:
        async with Publisher(tmp_path, rank=0) as first, Publisher(tmp_path, rank=1) as second:
            for publisher in (first, second):
                publisher.scalars(3 + publisher.attempt.rank)
                publisher.end()
            for publisher in (first, second):
                async with Subscription(Target(tmp_path), rank=publisher.attempt.rank) as subscription:
                    assert frames(await collect(subscription)) == expected(publisher.recorded)

    run(main())


@pytest.mark.parametrize("use_journal", [True, False])
def test_the_readers_loop_is_never_blocked(tmp_path: Path, use_journal: bool) -> None:
    """A reader never accesses a file or waits for a lock on its event loop."""

    async def main() -> None:
        async with Publisher(tmp_path) as publisher:
            publisher.scalars(3)
            with blockbuster_ctx("trainwire_protocol") as blockbuster:
                blockbuster.deactivate()
                blockbuster.activate()
                async with Subscription(Target(tmp_path), use_journal=use_journal, name="sink") as subscription:
                    first = await anext(subscription)
                    await subscription.acknowledge(first.cursor)
                    blockbuster.deactivate()  # the publisher writes its journal on this loop
                    publisher.scalars(3)
                    publisher.end()
                    blockbuster.activate()
                    rest = await collect(subscription)
            assert frames([first, *rest]) == expected(publisher.recorded)

    run(main())


def test_last_heartbeat_is_available(tmp_path: Path) -> None:
    """A reader that has caught up receives heartbeats, even while nothing is recorded."""

    async def main() -> None:
        async with Publisher(tmp_path) as publisher, Subscription(Target(tmp_path)) as subscription:
            publisher.scalars(3)
            await anext(subscription)
            while (heartbeat := subscription.heartbeat) is None:
                await asyncio.sleep(0.01)
            assert heartbeat.fields["state"] == "running"
            assert heartbeat.header.before == {"event": 2}

    run(main())


def test_silence_is_measured(tmp_path: Path) -> None:
    """Silence grows after a publisher's last heartbeat, until there is another sign of life."""

    async def main() -> None:
        async with Publisher(tmp_path) as publisher, Subscription(Target(tmp_path)) as subscription:
            publisher.scalars()
            await anext(subscription)
            while subscription.heartbeat is None:
                await asyncio.sleep(0.01)
            assert subscription.silence == 0
            publisher.rest()
            while subscription.silence < 1.2:
                await asyncio.sleep(0.01)
            publisher.renew()
            while subscription.silence > 1:
                await asyncio.sleep(0.01)

    run(main())


@pytest.mark.parametrize("use_journal", [True, False])
@pytest.mark.parametrize("count", [0, 3])
def test_a_reader_of_media_alone_sees_the_end(tmp_path: Path, count: int, use_journal: bool) -> None:
    """A heartbeat reports the end to a reader that does not get the last batch; it acknowledges everything."""

    async def main() -> None:
        async with (
            Publisher(tmp_path) as publisher,
            Subscription(
                Target(tmp_path), channels=("media",), name="pictures", use_journal=use_journal
            ) as subscription,
        ):
            publisher.scalars(2)
            for _ in range(count):
                publisher.scalars(2, "media")
            while subscription.heartbeat is None:
                await asyncio.sleep(0.01)
            publisher.scalars(2)
            publisher.end()
            started = time.monotonic()
            found = await collect(subscription)
            assert frames(found) == expected(publisher.recorded, ["media"])
            assert time.monotonic() - started < FETCH_QUIET_SECONDS
            assert await subscription.acknowledge(found[-1].cursor if found else START)
            assert publisher.server.responder.sinks["pictures"].cursor == publisher.recorded[-1].cursor
            assert await publisher.server.wait_for_sinks(publisher.recorder.seq - 1, 0.0) == []

    run(main())
