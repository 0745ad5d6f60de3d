"""A subscription gives every wanted event, in order, once: whenever it begins and by whichever way events come."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import pytest
from blockbuster import blockbuster_ctx
from support.publisher import Publisher, run
from support.recording import frames

from trainwire_protocol.events import Event
from trainwire_protocol.subscription.subscription import Subscription
from trainwire_protocol.subscription.target import Target
from trainwire_protocol.transport.auth import ClientKeys, KeyPair, ServerKeys
from trainwire_protocol.transport.server import MAX_PUBLISHED_BYTES
from trainwire_protocol.wire import START, Batch, Cursor

EVERYTHING = ("event", "media")


async def collect(subscription: Subscription) -> list[Batch]:
    """All that the subscription gives until the run is over."""
    return [batch async for batch in subscription]


async def take(subscription: Subscription, count: int) -> list[Batch]:
    """The next batches."""
    return [await anext(subscription) for _ in range(count)]


def wanted(recorded: Sequence[Batch], channels: Collection[str] = EVERYTHING, after: Cursor = START) -> list[Any]:
    """What a subscription has to give of what was recorded."""
    return frames([batch for batch in recorded if batch.header.channel in channels and batch.cursor > after])


def whole(subscription: Subscription) -> bool:
    """Whether the subscription found nothing amiss."""
    return subscription.gaps == 0 and subscription.malformed == 0


@pytest.mark.parametrize("use_journal", [True, False])
def test_from_the_beginning_live(tmp_path: Path, use_journal: bool) -> None:
    """A reader that was there before the first event gets all of them as they are recorded, and then ends."""

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
            assert frames(await reading) == wanted(publisher.recorded)
            assert whole(subscription)

    run(main())


@pytest.mark.parametrize("use_journal", [True, False])
@pytest.mark.parametrize("channels", [("event",), ("media",), EVERYTHING])
def test_a_late_reader_gets_what_was_before(tmp_path: Path, channels: tuple[str, ...], use_journal: bool) -> None:
    """A reader that joins late gets the past, then the present, of the channels that it wants."""

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
                assert frames(past + await reading) == wanted(publisher.recorded, channels)
                assert whole(subscription)

    run(main())


@pytest.mark.parametrize("use_journal", [True, False])
def test_from_any_cursor(tmp_path: Path, use_journal: bool) -> None:
    """From the cursor of any batch, what comes after it is given, and nothing of what came before."""

    async def main() -> None:
        async with Publisher(tmp_path) as publisher:
            for number in range(10):
                publisher.scalars(2, EVERYTHING[number % 3 == 2])
            publisher.end()
            for cursor in [START, *(batch.cursor for batch in publisher.recorded)]:
                async with Subscription(
                    Target(tmp_path), channels=EVERYTHING, cursor=cursor, use_journal=use_journal
                ) as subscription:
                    assert frames(await collect(subscription)) == wanted(publisher.recorded, after=cursor)

    run(main())


def test_an_address_is_enough(tmp_path: Path) -> None:
    """A reader that has the address of the publisher's requests, and no files, gets everything."""

    async def main() -> None:
        async with Publisher(tmp_path) as publisher:
            publisher.scalars(5)
            async with Subscription(Target(None, publisher.server.request_endpoint)) as subscription:
                first = await anext(subscription)
                publisher.scalars(5)
                publisher.end()
                assert frames([first, *await collect(subscription)]) == wanted(publisher.recorded)

    run(main())


def test_over_tcp_with_keys(tmp_path: Path) -> None:
    """Over TCP a reader with an allowed key gets everything, by the live feed and by `fetch`."""
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
                assert frames([first, *await collect(subscription)]) == wanted(publisher.recorded)

    run(main())


@pytest.mark.parametrize("use_journal", [True, False])
def test_from_now(tmp_path: Path, use_journal: bool) -> None:
    """A live view gets what is recorded from now on, without a gap, and not what was before."""

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


def test_from_now_of_a_run_that_is_over_gives_nothing(tmp_path: Path) -> None:
    """A live view of a run that is over ends, without showing the past as present."""

    async def main() -> None:
        async with Publisher(tmp_path) as publisher:
            publisher.scalars(5)
            publisher.end()
        async with Subscription(Target(tmp_path), from_now=True) as subscription:
            assert await collect(subscription) == []

    run(main())


@pytest.mark.parametrize("use_journal", [True, False])
def test_bursts_past_the_high_water_mark_lose_nothing(tmp_path: Path, use_journal: bool) -> None:
    """With queues of ten messages, 200,000 events in bursts on two channels all arrive, in order, once."""

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
            assert frames(await reading) == wanted(publisher.recorded)
            assert whole(subscription)

    run(main())


@pytest.mark.parametrize("use_journal", [True, False])
def test_batches_that_are_too_large_to_publish_arrive(tmp_path: Path, use_journal: bool) -> None:
    """A batch that PUB does not carry comes from the history, in its place, also as the very last of its channel."""

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
            assert frames(await reading) == wanted(publisher.recorded)
            assert whole(subscription)

    run(main())


async def three_attempts(folder: Path) -> list[Batch]:
    """A run whose attempts end without a word, each resuming from within the one before; ended in the third."""
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
    """All attempts are given, one after the other, from any cursor in any of them."""

    async def main() -> None:
        recorded = await three_attempts(tmp_path)
        for cursor in (START, Cursor(0, 9), Cursor(1, 4), Cursor(2, 2)):
            async with Subscription(Target(tmp_path), cursor=cursor) as subscription:
                assert frames(await collect(subscription)) == wanted(recorded, after=cursor)

    run(main())


def test_what_is_superseded_can_be_left_out(tmp_path: Path) -> None:
    """With `skip_superseded`, of each attempt only what its successor resumed from is given."""

    async def main() -> None:
        recorded = await three_attempts(tmp_path)
        async with Subscription(Target(tmp_path), skip_superseded=True) as subscription:
            kept = [batch for batch in recorded if batch.header.attempt == 2 or batch.cursor.seq <= 3]
            assert frames(await collect(subscription)) == wanted(kept)

    run(main())


@pytest.mark.parametrize("use_journal", [True, False])
def test_attempts_are_followed_live(tmp_path: Path, use_journal: bool) -> None:
    """A reader goes over from one live publisher to the next, whose sockets are elsewhere, and acknowledges there."""

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
                assert frames(recorded[-20:]) == wanted(publisher.recorded)
                while "loss-file" not in publisher.server.responder.sinks:
                    await subscription.acknowledge(recorded[-1].cursor)
                assert publisher.server.responder.sinks["loss-file"].cursor == Cursor(number, 39)
            publisher.end()
            assert len(await collect(subscription)) == 1
            assert whole(subscription)

    run(main())


@pytest.mark.parametrize("use_journal", [True, False])
def test_cancelling_a_pending_batch_loses_nothing(tmp_path: Path, use_journal: bool) -> None:
    """Waiting for the next batch can be given up at any moment, again and again, and nothing is lost."""

    async def main() -> None:
        async with (
            Publisher(tmp_path) as publisher,
            Subscription(Target(tmp_path), use_journal=use_journal) as subscription,
        ):
            found: list[Batch] = []
            given_up = 0

            async def record() -> None:
                for _ in range(200):
                    publisher.scalars(2)
                    await asyncio.sleep(0.001)
                publisher.end()

            recording = asyncio.ensure_future(record())
            while True:
                try:
                    found.append(await asyncio.wait_for(anext(subscription), 0.0005 * (given_up % 3)))
                except TimeoutError:
                    given_up += 1
                except StopAsyncIteration:
                    break
            await recording
            assert given_up > 10
            assert frames(found) == wanted(publisher.recorded)

    run(main())


def test_the_end_stays_the_end(tmp_path: Path) -> None:
    """After the last batch, asking again says again that the run is over."""

    async def main() -> None:
        async with Publisher(tmp_path) as publisher:
            publisher.end()
        async with Subscription(Target(tmp_path)) as subscription:
            assert len(await collect(subscription)) == 1
            for _ in range(3):
                with pytest.raises(StopAsyncIteration):
                    await anext(subscription)

    run(main())


def test_a_reader_that_stops_early_leaves_nothing_behind(tmp_path: Path) -> None:
    """A subscription can be left at any moment: before its first batch, and in the middle."""

    async def main() -> None:
        async with Publisher(tmp_path) as publisher:
            for _ in range(500):
                publisher.scalars()
            for count in (0, 1, 100):
                async with Subscription(Target(tmp_path)) as subscription:
                    await take(subscription, count)

    run(main())


def test_ranks_are_read_one_by_one(tmp_path: Path) -> None:
    """A reader of one rank gets that rank's events, and none of another's."""

    async def main() -> None:
        async with Publisher(tmp_path, rank=0) as first, Publisher(tmp_path, rank=1) as second:
            for publisher in (first, second):
                publisher.scalars(3 + publisher.attempt.rank)
                publisher.end()
            for publisher in (first, second):
                async with Subscription(Target(tmp_path), rank=publisher.attempt.rank) as subscription:
                    assert frames(await collect(subscription)) == wanted(publisher.recorded)

    run(main())


@pytest.mark.parametrize("use_journal", [True, False])
def test_the_readers_loop_is_never_blocked(tmp_path: Path, use_journal: bool) -> None:
    """A reader touches no file and waits for no lock on its event loop."""

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
            assert frames([first, *rest]) == wanted(publisher.recorded)

    run(main())


def test_the_last_heartbeat_is_told(tmp_path: Path) -> None:
    """A reader that has caught up hears what the publisher tells of itself, also while nothing is recorded."""

    async def main() -> None:
        async with Publisher(tmp_path) as publisher, Subscription(Target(tmp_path)) as subscription:
            publisher.scalars(3)
            await anext(subscription)
            while (heartbeat := subscription.heartbeat) is None:
                await asyncio.sleep(0.01)
            assert heartbeat.fields["state"] == "running"
            assert heartbeat.header.before == {"event": 2}

    run(main())


def test_silence_is_counted_while_nobody_is_there(tmp_path: Path) -> None:
    """A publisher that stops beating without an end is silent for longer and longer, until a sign of it is seen."""

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
