"""A subscription through killed and stopped processes, rogue publishers, later versions and damaged journals."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import signal
import sys
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgpack
import pytest
import zmq
from support.publisher import Publisher, run
from support.reading import read_batches, until
from support.recording import Recorder, frames, scalar

from trainwire_protocol.errors import CursorAheadError, IncompleteError, RequestError, UnsupportedVersionError
from trainwire_protocol.events import Event
from trainwire_protocol.journal.records import encode_record
from trainwire_protocol.journal.run_folder import Lease, begin_attempt
from trainwire_protocol.journal.segments import JournalWriter
from trainwire_protocol.process import ProcessIdentity
from trainwire_protocol.subscription import subscription as subscription_module
from trainwire_protocol.subscription.subscription import Subscription
from trainwire_protocol.subscription.target import Target
from trainwire_protocol.transport.connection import connection_path, write_connection
from trainwire_protocol.transport.live import MAX_MESSAGE_BYTES
from trainwire_protocol.transport.server import MAX_PUBLISHED_BYTES
from trainwire_protocol.wire import HEARTBEAT, VERSION, Batch, Cursor, Header, encode_header, topic

EVERYTHING = ("event", "media")
READER = """
import asyncio, sys
from pathlib import Path
from trainwire_protocol.subscription import subscription as subscription_module
from trainwire_protocol.subscription.subscription import Subscription
from trainwire_protocol.transport.server import MAX_PUBLISHED_BYTES
from trainwire_protocol.subscription.target import Target
async def main():
    seqs = []
    async with Subscription(Target(Path(sys.argv[1])), high_water_mark=10) as subscription:
        async for batch in subscription:
            seqs += range(batch.header.seq, batch.cursor.seq + 1)
            print(len(seqs), flush=True)
    print(seqs == list(range(len(seqs))), subscription.gaps, flush=True)
asyncio.run(main())
"""


async def collect(subscription: Subscription) -> list[Batch]:
    return [batch async for batch in subscription]


@contextlib.asynccontextmanager
async def a_process(*arguments: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """A Python process, which is killed in the end if it has not ended."""
    process = await asyncio.create_subprocess_exec(sys.executable, *arguments, stdout=asyncio.subprocess.PIPE)
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.communicate()


async def line(process: asyncio.subprocess.Process) -> str:
    assert process.stdout
    return (await process.stdout.readline()).decode().strip()


def trainer(folder: Path, batches: int = 200, *, end: bool = False) -> contextlib.AbstractAsyncContextManager[Any]:
    """A publisher in a process of its own, with so many batches of 10 events on two channels."""
    return a_process("-m", "support.publisher", str(folder), str(batches), "10", *["--end"] * end)


def test_a_killed_publisher(tmp_path: Path) -> None:
    """When the publisher is killed, a reader beside it reads what was journaled, and then ends."""

    async def main() -> None:
        async with trainer(tmp_path) as process, Subscription(Target(tmp_path), channels=EVERYTHING) as subscription:
            reading = asyncio.ensure_future(collect(subscription))
            assert await line(process) == "2000"
            process.kill()
            assert frames(await reading) == frames(read_batches(tmp_path))
            assert sum(batch.header.count for batch in reading.result()) == 2000

    run(main())


def test_a_killed_publisher_that_was_asked_alone(tmp_path: Path) -> None:
    """A reader by `fetch` alone, whose publisher is killed, says that it could not have had the rest."""

    async def main() -> None:
        async with trainer(tmp_path) as process:
            assert await line(process) == "2000"
            async with Subscription(Target(tmp_path), channels=EVERYTHING, use_journal=False) as subscription:
                found = [await anext(subscription) for _ in range(200)]
                process.kill()
                with pytest.raises(IncompleteError, match="is gone and cannot be asked for the rest"):
                    await collect(subscription)
                assert frames(found) == frames(read_batches(tmp_path))

    run(main())


def test_a_publisher_that_ended_long_ago(tmp_path: Path) -> None:
    """A reader that comes after the end reads everything from the journal, and ends at once."""

    async def main() -> None:
        async with trainer(tmp_path, end=True) as process:
            await process.wait()
        async with Subscription(Target(tmp_path), channels=EVERYTHING) as subscription:
            found = await collect(subscription)
            assert frames(found) == frames(read_batches(tmp_path))
            assert found[-1].header.last
            assert subscription.gaps == subscription.malformed == 0

    run(main())


def test_a_stopped_publisher_is_waited_for(tmp_path: Path) -> None:
    """A publisher that is stopped is not gone: the reader waits, and goes on when it does."""

    async def main() -> None:
        async with trainer(tmp_path, 2) as process, Subscription(Target(tmp_path)) as subscription:
            assert await line(process) == "20"
            process.send_signal(signal.SIGSTOP)
            found = [await anext(subscription) for _ in range(2)]
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(anext(subscription), 2)
            process.send_signal(signal.SIGCONT)
            process.kill()
            assert frames(found + await collect(subscription)) == frames(read_batches(tmp_path))

    run(main())


def test_a_stopped_publisher_is_given_up(tmp_path: Path) -> None:
    """With `give_up`, a publisher that is there and silent is waited for so long, and then the reader says so."""

    async def main() -> None:
        async with trainer(tmp_path, 2) as process:
            assert await line(process) == "20"
            async with Subscription(Target(tmp_path), give_up=1.0) as subscription:
                await anext(subscription)
                process.send_signal(signal.SIGSTOP)
                with pytest.raises(IncompleteError, match=rf"{tmp_path}: .*gave up after 1 s"):
                    await collect(subscription)
                with pytest.raises(IncompleteError):
                    await anext(subscription)

    run(main())


def test_a_stopped_reader_gets_everything_when_it_goes_on(tmp_path: Path) -> None:
    """A reader that was stopped while its queue overflowed has everything in the end."""

    async def main() -> None:
        async with Publisher(tmp_path, high_water_mark=10) as publisher:
            publisher.scalars()
            async with a_process("-c", READER, str(tmp_path)) as process:
                assert await line(process) == "1"
                process.send_signal(signal.SIGSTOP)
                for _ in range(2000):
                    publisher.scalars(5)
                publisher.end()
                process.send_signal(signal.SIGCONT)
                lines = (await process.communicate())[0].decode().splitlines()
                assert lines[-2:] == ["10002", "True 0"]

    run(main())


def test_a_run_that_has_not_begun_is_waited_for(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A reader that is there before the run's folder waits, with a word about it, and misses nothing."""
    folder = tmp_path / "run"

    async def main() -> None:
        async with Subscription(Target(folder)) as subscription:
            reading = asyncio.ensure_future(collect(subscription))
            while "the run has not started; waiting" not in caplog.text:
                await asyncio.sleep(0.01)
            assert str(folder) in caplog.text
            async with Publisher(folder) as publisher:
                publisher.scalars(3)
                publisher.end()
                assert frames(await reading) == frames(publisher.recorded)
        assert len(caplog.records) == 1

    with caplog.at_level(logging.WARNING):
        run(main())


def test_a_run_that_never_begins_is_given_up(tmp_path: Path) -> None:
    """With `give_up`, a run that does not begin is waited for so long."""

    async def main() -> None:
        async with Subscription(Target(tmp_path / "run"), give_up=0.3) as subscription:
            with pytest.raises(IncompleteError, match=r"the run has not started; gave up after 0\.3 s"):
                await anext(subscription)

    run(main())


def test_an_address_where_nobody_is_is_given_up(tmp_path: Path) -> None:
    """With `give_up`, an address that does not answer is given up."""

    async def main() -> None:
        async with Subscription(Target(None, f"ipc://{tmp_path}/nobody"), give_up=0.3) as subscription:
            with pytest.raises(IncompleteError, match=f"ipc://{tmp_path}/nobody"):
                await anext(subscription)

    run(main())


def test_a_publisher_of_another_host_that_is_silent_is_given_up(tmp_path: Path) -> None:
    """A run whose publisher was on another host and says nothing is not over, and with `give_up` is given up."""
    attempt = begin_attempt(tmp_path, 0, "session")
    attempt.write_lease(Lease(ProcessIdentity("another-host", 1, "then"), "session", 0.0))
    writer = JournalWriter(attempt.folder)
    writer.append([Recorder(attempt.run).scalars(2)])
    writer.close()

    async def main() -> None:
        async with Subscription(Target(tmp_path), give_up=0.3) as subscription:
            assert len((await anext(subscription)).events) == 2
            with pytest.raises(IncompleteError, match="cannot be reached"):
                await anext(subscription)

    run(main())


async def rogue_frames(run_name: str) -> list[list[bytes]]:
    """What a publisher never sends, on topics to which readers of its run subscribe."""
    recorder = Recorder(run_name)
    recorder.scalars(2)
    whole = recorder.scalars(2)  # what was read already is not looked into
    wrong_count = Batch(whole.header, encode_header(whole.header), b"\x90")
    return [
        [whole.topic],
        [whole.topic, b"", b""],
        [whole.topic, b"\xc1", whole.body],
        [whole.topic, whole.header_bytes, b"\xc1"],
        [whole.topic, whole.header_bytes, wrong_count.body],
        [whole.topic, whole.header_bytes, whole.body, b"more"],
        [topic("media", run_name, 0), whole.header_bytes, whole.body],
        [whole.topic, encode_header(Recorder("another-run").scalars(2).header), whole.body],
    ]


def test_malformed_frames_are_counted_and_skipped(tmp_path: Path) -> None:
    """Frames that are no batch are counted, and the events around them are all delivered."""

    async def main() -> None:
        async with (
            Publisher(tmp_path) as publisher,
            Subscription(Target(tmp_path), channels=EVERYTHING) as subscription,
        ):
            publisher.scalars(2)
            found = [await anext(subscription)]
            rogue = await rogue_frames(publisher.attempt.run)
            await until(lambda: subscription.heartbeat)  # it is what is subscribed to last
            for message in rogue:
                publisher.server._publisher.send_multipart(message)
            await until(lambda: subscription.malformed >= len(rogue))
            publisher.scalars(2)
            publisher.end()
            assert frames(found + await collect(subscription)) == frames(publisher.recorded)
            assert subscription.malformed == len(rogue)

    run(main())


def test_a_live_message_past_the_limit_costs_nothing(tmp_path: Path) -> None:
    """A publisher that sends a message past `MAX_MESSAGE_BYTES` is reconnected to, and nothing is missing."""

    async def main() -> None:
        async with Publisher(tmp_path) as publisher, Subscription(Target(tmp_path)) as subscription:
            reading = asyncio.ensure_future(collect(subscription))
            for _ in range(5):
                publisher.scalars(2)
                await asyncio.sleep(0.02)
                frame = topic("event", publisher.attempt.run, 0)
                publisher.server._publisher.send_multipart([frame, b"", bytes(MAX_MESSAGE_BYTES + 1)])
            publisher.end()
            assert frames(await reading) == frames(publisher.recorded)

    run(main())


def test_malformed_events_of_a_journal_are_counted(tmp_path: Path) -> None:
    """Events that are not allowed are left out and counted; a body that cannot be read costs its batch alone."""

    async def main() -> None:
        async with Publisher(tmp_path) as publisher:
            whole = publisher.recorder.record([scalar(0), Event("", 1.0, "scalar", 1.0, 1), scalar(1)])
            broken = publisher.recorder.scalars(4)
            for batch in (whole, Batch(broken.header, broken.header_bytes, b"\xc1"), publisher.recorder.scalars()):
                publisher.publish(batch)
            publisher.end()
        async with Subscription(Target(tmp_path)) as subscription:
            found = await collect(subscription)
            assert [len(batch.events) for batch in found] == [2, 1, 1]
            assert subscription.malformed == 1 + 4

    run(main())


def test_a_damaged_record_is_told_of_and_passed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A record that is damaged on disk is named with its place, and what comes after it is delivered."""

    async def main() -> None:
        async with Publisher(tmp_path) as publisher:
            for _ in range(3):
                publisher.scalars(2)
            publisher.end()
        segment = next(publisher.attempt.folder.glob("*.journal"))
        data = bytearray(segment.read_bytes())
        place = len(encode_record(publisher.recorded[0]))
        data[place + 30] ^= 1
        segment.write_bytes(data)
        async with Subscription(Target(tmp_path)) as subscription:
            found = await collect(subscription)
            assert [batch.header.seq for batch in found] == [0, 4, 6]
            assert subscription.gaps == 1
        assert f"{segment}: " in caplog.text
        assert f" bytes at {place}: the checksum is wrong" in caplog.text
        assert "events between 1 and 4 are missing" in caplog.text

    run(main())


def test_a_record_that_is_damaged_after_it_was_heard_costs_nothing(tmp_path: Path) -> None:
    """Damage in a part of the journal that a reader has had live is no gap to it, also when it reads on behind it."""

    async def main() -> None:
        async with Publisher(tmp_path) as publisher, Subscription(Target(tmp_path)) as subscription:
            publisher.scalars()
            found = [await anext(subscription)]
            while not subscription._source.live:
                await asyncio.sleep(0.01)
            place = len(encode_record(publisher.recorded[0]))
            publisher.scalars()
            found.append(await anext(subscription))
            with next(publisher.attempt.folder.glob("*.journal")).open("r+b") as file:
                file.seek(place + 30)
                file.write(b"\x00\xff")
            publisher.record([scalar(2)._replace(type="text", value="a" * MAX_PUBLISHED_BYTES)])
            publisher.end()
            assert frames(found + await collect(subscription)) == frames(publisher.recorded)
            assert subscription.gaps == 0

    run(main())


def test_unjournaled_batches_move_no_cursor(tmp_path: Path) -> None:
    """What is published without being journaled is not delivered, and what was is, once and in order."""

    async def main() -> None:
        async with Publisher(tmp_path) as publisher, Subscription(Target(tmp_path)) as subscription:
            publisher.scalars(2)
            first = await anext(subscription)
            while not subscription._source.live:
                await asyncio.sleep(0.01)
            batch = publisher.recorder.scalars(3)
            header = Header(**{name: getattr(batch.header, name) for name in Header.__slots__} | {"unjournaled": True})
            publisher.server.publish(Batch(header, encode_header(header), batch.body))
            await asyncio.sleep(0.05)
            publisher.publish(batch)
            publisher.end()
            assert frames([first, *await collect(subscription)]) == frames(publisher.recorded)

    run(main())


@pytest.mark.parametrize("place", ["journal", "connection", "live"])
def test_a_newer_major_version_is_refused(tmp_path: Path, place: str) -> None:
    """A journal, connection file or message of a newer major version ends the reading with what to install."""

    async def main() -> None:
        async with Publisher(tmp_path) as publisher, Subscription(Target(tmp_path)) as subscription:
            newer = msgpack.packb({"version": VERSION + 1})
            if place == "journal":
                header = Recorder(publisher.attempt.run).scalars().header
                publisher._journal.append([Batch(header, newer, b"")])
            elif place == "connection":
                publisher.scalars()
                path = connection_path(tmp_path, 0)
                path.write_text(json.dumps({"version": VERSION + 1}))
            else:
                publisher.scalars()
            with pytest.raises(UnsupportedVersionError, match="pip install --upgrade trainwire"):
                reading = asyncio.ensure_future(collect(subscription))
                while not reading.done():
                    if place == "live":
                        publisher.server._publisher.send_multipart(
                            [topic("event", publisher.attempt.run, 0), newer, b""]
                        )
                    await asyncio.sleep(0.01)
                await reading

    run(main())


def test_a_publisher_that_speaks_only_newer_versions_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A publisher that does not speak this version says so in its `hello`; one that says rubbish is refused too."""

    async def main(versions: object, error: type[Exception], match: str) -> None:
        async with Publisher(tmp_path, take_over=True) as publisher:
            monkeypatch.setattr(publisher.server.responder, "describe", lambda: {"versions": versions})
            async with Subscription(Target(None, publisher.server.request_endpoint)) as subscription:
                with pytest.raises(error, match=match):
                    await anext(subscription)

    run(main([VERSION + 1, VERSION + 2], UnsupportedVersionError, "pip install --upgrade trainwire"))
    run(main("newest", RequestError, "versions 'newest'"))
    run(main([], RequestError, "versions"))


def test_an_older_reader_skips_what_later_versions_add(tmp_path: Path) -> None:
    """Unknown types, names, event fields, header fields and channels are delivered or skipped, and never fatal."""

    async def main() -> None:
        async with Publisher(tmp_path) as publisher, Subscription(Target(tmp_path)) as subscription:
            reading = asyncio.ensure_future(collect(subscription))
            later = [Event("a", [1], "point_cloud", 1.0, 1), Event("moon/risen", {"full": True}, "lifecycle", 1.0, 1)]
            publisher.record(later)
            publisher.record([scalar(2)], "gradients")
            batch = publisher.recorder.record([scalar(3)])
            header = msgpack.packb(msgpack.unpackb(batch.header_bytes) | {"compression": None})
            body = msgpack.packb([[*batch.events[0], "unit"]])
            publisher.publish(Batch(batch.header, header, body))
            publisher.end()
            found = await reading
            assert [event.name for batch in found for event in batch.events] == [
                "a", "moon/risen", "train/loss", "run/finished"
            ]  # fmt: skip
            assert subscription.gaps == subscription.malformed == 0

    run(main())


def test_an_endpoint_that_cannot_be_connected_to_ends_the_reading(tmp_path: Path) -> None:
    """A publisher that tells an address which only a server can use is told of, and closing does not hang."""

    async def main() -> None:
        async with Publisher(tmp_path) as publisher:
            publisher.scalars(2)
            write_connection(connection_path(tmp_path, 0), replace(publisher.connection, publish="tcp://*:80"))
            async with Subscription(Target(tmp_path)) as subscription:
                assert (await anext(subscription)).header.seq == 0
                with pytest.raises(RequestError, match=r"tcp://\*:80' cannot be connected to"):
                    await anext(subscription)

    run(main())


def test_a_connection_file_of_a_dead_publisher_is_not_connected_to(tmp_path: Path) -> None:
    """A connection file whose socket is gone is not waited on: the journal is followed."""

    async def main() -> None:
        async with Publisher(tmp_path) as publisher:
            publisher.scalars(2)
            stale = publisher.connection
        async with Subscription(Target(tmp_path)) as subscription:
            await anext(subscription)
            write_connection(connection_path(tmp_path, 0), stale)
            writer = JournalWriter(publisher.attempt.folder)
            writer.append([publisher.recorder.happened("run/finished")])
            writer.close()
            assert [batch.header.seq for batch in await collect(subscription)] == [2]
            assert subscription._source.live is None

    run(main())


@pytest.mark.parametrize("use_journal", [True, False])
def test_a_cursor_ahead_of_a_record_that_goes_on(tmp_path: Path, use_journal: bool) -> None:
    """A cursor past what a crashed host's journal holds, in a run that goes on, is refused: it holds what is lost."""

    async def main() -> None:
        async with Publisher(tmp_path) as publisher:
            publisher.scalars(2)
        async with Publisher(tmp_path, take_over=True) as publisher:
            publisher.scalars(3)
            publisher.end()
            for cursor in (Cursor(0, 1000), Cursor(7, 0)):
                async with Subscription(Target(tmp_path), cursor=cursor, use_journal=use_journal) as subscription:
                    with pytest.raises(CursorAheadError, match="read up to"):
                        await anext(subscription)

    run(main())


def test_a_cursor_ahead_of_a_record_that_is_over(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A cursor past the end of a run that does not go on is told of, and there is nothing to read."""

    async def main() -> None:
        async with Publisher(tmp_path) as publisher:
            publisher.scalars(2)
            publisher.end()
        async with Subscription(Target(tmp_path), cursor=Cursor(0, 1000)) as subscription:
            assert await collect(subscription) == []
        assert "ends at seq 2, but was read up to 1000" in caplog.text

    run(main())


def test_a_segment_that_cannot_be_read_makes_the_reading_incomplete(tmp_path: Path) -> None:
    """Where the system does not let the journal be read, the reader says so with our error."""

    async def main() -> None:
        attempt = begin_attempt(tmp_path, 0, "session")
        (attempt.folder / f"{0:020d}.journal").mkdir()
        async with Subscription(Target(tmp_path)) as subscription:
            with pytest.raises(IncompleteError, match="Is a directory"):
                await anext(subscription)

    run(main())


def test_an_acknowledgement_to_nobody_is_given_up(tmp_path: Path) -> None:
    """Acknowledging where there is no publisher, or one that is gone, does no more than take its time."""

    async def main() -> None:
        async with Publisher(tmp_path) as publisher:
            publisher.scalars()
            async with Subscription(Target(tmp_path), name="sink") as subscription:
                batch = await anext(subscription)
                await subscription.acknowledge(batch.cursor)
                while not subscription._source.requester:
                    await asyncio.sleep(0.01)
                publisher.server.responder.close()
                for task in publisher._tasks:
                    task.cancel()
                await subscription.acknowledge(batch.cursor)

    run(main())


def test_a_slow_consumer_keeps_a_bounded_number_of_batches(tmp_path: Path) -> None:
    """Of a long journal no more than `READ_AHEAD_BATCHES` are read before they are asked for."""

    async def main() -> None:
        async with Publisher(tmp_path) as publisher:
            for _ in range(subscription_module.READ_AHEAD_BATCHES * 5):
                publisher.scalars()
            publisher.end()
            async with Subscription(Target(tmp_path)) as subscription:
                await anext(subscription)
                while not subscription._ready.full():
                    await asyncio.sleep(0.01)
                await asyncio.sleep(0.05)
                assert subscription._ready.qsize() == subscription_module.READ_AHEAD_BATCHES
                assert len(await collect(subscription)) == len(publisher.recorded) - 1

    run(main())


def test_a_slow_consumer_keeps_a_bounded_number_of_bytes(tmp_path: Path) -> None:
    """Of large batches fewer are read ahead: what waits has at most one more than `read_ahead_bytes` allow."""

    async def main() -> None:
        async with Publisher(tmp_path) as publisher:
            for _ in range(10):
                publisher.happened("run/large", filling="x" * 6_000)
            publisher.end()
            async with Subscription(Target(tmp_path), read_ahead_bytes=10_000) as subscription:
                await anext(subscription)
                while not subscription._ready.full():
                    await asyncio.sleep(0.01)
                await asyncio.sleep(0.05)
                assert subscription._ready.qsize() == 2
                assert len(await collect(subscription)) == len(publisher.recorded) - 1

    run(main())


def test_a_heartbeat_shows_a_lost_tail(tmp_path: Path) -> None:
    """When the last batches were dropped on their way, the next heartbeat makes the reader get them."""

    async def main() -> None:
        async with Publisher(tmp_path) as publisher, Subscription(Target(tmp_path)) as subscription:
            publisher.scalars()
            first = await anext(subscription)
            while not subscription._source.live:
                await asyncio.sleep(0.01)
            tail = publisher.recorder.scalars(2)
            publisher._journal.append([tail])
            header = Header(publisher.attempt.run, 0, 0, HEARTBEAT, 3, 0, {"event": 2})
            publisher.server._publisher.send_multipart(
                [topic(HEARTBEAT, header.run, 0), encode_header(header), msgpack.packb({})]
            )
            assert frames([first, await anext(subscription)])[1] == frames([tail])[0]

    run(main())


def test_a_plain_socket_that_reads_nothing_holds_nobody_up(tmp_path: Path) -> None:
    """A subscriber that connects and never reads changes nothing for one that does."""

    async def main() -> None:
        async with Publisher(tmp_path, high_water_mark=10) as publisher:
            with zmq.Context() as context, context.socket(zmq.SUB) as deaf:
                deaf.subscribe(b"")
                deaf.linger = 0
                deaf.connect(publisher.server.publish_endpoint)
                async with Subscription(Target(tmp_path)) as subscription:
                    reading = asyncio.ensure_future(collect(subscription))
                    for _ in range(1000):
                        publisher.scalars(50)
                    publisher.end()
                    assert frames(await reading) == frames(publisher.recorded)

    run(main())
