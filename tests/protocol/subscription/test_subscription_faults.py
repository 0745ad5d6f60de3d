"""Subscriptions with killed and stopped processes, rogue publishers, newer versions and damaged journals."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import signal
import sys
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgpack
import pytest
import zmq
from support.publisher import Publisher, run
from support.recorder import Recorder, frames, scalar
from support.run_reader import read_batches, until

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
from trainwire_protocol.transport.requester import Requester
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
    """Start a Python process, and kill it at the end if it is still running."""
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
    """Start a publisher in its own process, which records `batches` batches of 10 events on two channels."""
    return a_process("-m", "support.publisher", str(folder), str(batches), "10", *["--end"] * end)


def test_killed_publisher(tmp_path: Path) -> None:
    """When the publisher is killed, a reader on the same host reads what was journaled, and then ends."""

    async def main() -> None:
        async with trainer(tmp_path) as process, Subscription(Target(tmp_path), channels=EVERYTHING) as subscription:
            reading = asyncio.ensure_future(collect(subscription))
            assert await line(process) == "2000"
            process.kill()
            assert frames(await reading) == frames(read_batches(tmp_path))
            assert sum(batch.header.count for batch in reading.result()) == 2000

    run(main())


def test_killed_publisher_without_journal(tmp_path: Path) -> None:
    """A reader that uses only `fetch` raises IncompleteError when its publisher is killed."""

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


def test_finished_publisher(tmp_path: Path) -> None:
    """A reader that starts after the end reads everything from the journal, and ends."""

    async def main() -> None:
        async with trainer(tmp_path, end=True) as process:
            await process.wait()
        async with Subscription(Target(tmp_path), channels=EVERYTHING) as subscription:
            found = await collect(subscription)
            assert frames(found) == frames(read_batches(tmp_path))
            assert found[-1].header.last
            assert subscription.gaps == subscription.malformed == 0

    run(main())


def test_stopped_publisher_is_not_gone(tmp_path: Path) -> None:
    """The reader waits for a publisher that is stopped, and continues when it does."""

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


def test_give_up_on_a_stopped_publisher(tmp_path: Path) -> None:
    """With `give_up`, the reader raises IncompleteError after that time without data."""

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


def test_stopped_reader_loses_nothing(tmp_path: Path) -> None:
    """A reader that was stopped while its queue overflowed gets everything."""

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


def test_reader_waits_for_a_run_to_start(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A reader that starts before the run's folder exists logs that it waits, and misses nothing."""
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


def test_give_up_on_a_run_that_never_starts(tmp_path: Path) -> None:
    """With `give_up`, the reader raises IncompleteError if the run does not start in time."""

    async def main() -> None:
        async with Subscription(Target(tmp_path / "run"), give_up=0.3) as subscription:
            with pytest.raises(IncompleteError, match=r"the run has not started; gave up after 0\.3 s"):
                await anext(subscription)

    run(main())


def test_give_up_on_an_address_without_publisher(tmp_path: Path) -> None:
    """With `give_up`, the reader raises IncompleteError if nothing answers at the address."""

    async def main() -> None:
        async with Subscription(Target(None, f"ipc://{tmp_path}/nobody"), give_up=0.3) as subscription:
            with pytest.raises(IncompleteError, match=f"ipc://{tmp_path}/nobody"):
                await anext(subscription)

    run(main())


def test_give_up_on_a_silent_publisher_of_another_host(tmp_path: Path) -> None:
    """A run with a silent publisher on another host is not over; with `give_up` the reader raises IncompleteError."""
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
    """Return messages that no publisher sends, on topics that readers of its run subscribe to."""
    recorder = Recorder(run_name)
    recorder.scalars(2)
    whole = recorder.scalars(2)  # batches before the cursor are not decoded
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


def test_malformed_messages_are_counted_and_skipped(tmp_path: Path) -> None:
    """Malformed messages are counted, and all events around them are delivered."""

    async def main() -> None:
        async with (
            Publisher(tmp_path) as publisher,
            Subscription(Target(tmp_path), channels=EVERYTHING) as subscription,
        ):
            publisher.scalars(2)
            found = [await anext(subscription)]
            rogue = await rogue_frames(publisher.attempt.run)
            await until(lambda: subscription.heartbeat)  # its topic is subscribed to last
            for message in rogue:
                publisher.server._publisher.send_multipart(message)
            await until(lambda: subscription.malformed >= len(rogue))
            publisher.scalars(2)
            publisher.end()
            assert frames(found + await collect(subscription)) == frames(publisher.recorded)
            assert subscription.malformed == len(rogue)

    run(main())


def test_too_large_live_message_loses_nothing(tmp_path: Path) -> None:
    """After a message above `MAX_MESSAGE_BYTES` the reader reconnects, and nothing is missing."""

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


def test_malformed_events_in_a_journal_are_counted(tmp_path: Path) -> None:
    """Invalid events are skipped and counted; a malformed body affects only its own batch."""

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


def test_damaged_record_is_reported_and_skipped(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A damaged record is logged with its place, and what follows it is delivered."""

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


def test_damage_to_a_record_already_delivered_is_no_gap(tmp_path: Path) -> None:
    """Damage to a record that was delivered live is not a gap, even if the reader then reads what follows it."""

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


def test_unjournaled_batches_do_not_advance_the_cursor(tmp_path: Path) -> None:
    """Unjournaled batches are not delivered; once journaled they are, in order and once."""

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
def test_newer_major_version_is_refused(tmp_path: Path, place: str) -> None:
    """A journal, connection file or message of a newer major version raises an error with a hint to upgrade."""

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


def test_publisher_of_only_newer_versions_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A publisher whose `hello` has only newer versions, or invalid ones, raises an error."""

    async def main(versions: object, error: type[Exception], match: str) -> None:
        async with Publisher(tmp_path, take_over=True) as publisher:
            monkeypatch.setattr(publisher.server.responder, "describe", lambda: {"versions": versions})
            async with Subscription(Target(None, publisher.server.request_endpoint)) as subscription:
                with pytest.raises(error, match=match):
                    await anext(subscription)

    run(main([VERSION + 1, VERSION + 2], UnsupportedVersionError, "pip install --upgrade trainwire"))
    run(main("newest", RequestError, "versions 'newest'"))
    run(main([], RequestError, "versions"))


def test_additions_of_later_versions_are_skipped(tmp_path: Path) -> None:
    """Unknown types, names, event fields, header fields and channels are delivered or skipped, and raise nothing."""

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


def test_invalid_endpoint_raises_request_error(tmp_path: Path) -> None:
    """If the endpoint cannot be connected to, RequestError is raised, and closing does not hang."""

    async def main() -> None:
        async with Publisher(tmp_path) as publisher:
            publisher.scalars(2)
            write_connection(connection_path(tmp_path, 0), replace(publisher.connection, publish="tcp://*:80"))
            async with Subscription(Target(tmp_path)) as subscription:
                assert (await anext(subscription)).header.seq == 0
                with pytest.raises(RequestError, match=r"cannot connect to the publisher's endpoint 'tcp://\*:80'"):
                    await anext(subscription)

    run(main())


def test_stale_connection_file_is_ignored(tmp_path: Path) -> None:
    """With a connection file whose socket is gone, the reader follows the journal."""

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
def test_cursor_ahead_of_a_continued_run(tmp_path: Path, use_journal: bool) -> None:
    """A cursor beyond the end of a journal that a later attempt continues raises CursorAheadError."""

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


def test_cursor_ahead_of_a_finished_run(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A cursor beyond the end of a finished run is logged, and nothing is delivered."""

    async def main() -> None:
        async with Publisher(tmp_path) as publisher:
            publisher.scalars(2)
            publisher.end()
        async with Subscription(Target(tmp_path), cursor=Cursor(0, 1000)) as subscription:
            assert await collect(subscription) == []
        assert "ends at seq 2, but was read up to 1000" in caplog.text

    run(main())


def test_unreadable_segment_raises_incomplete_error(tmp_path: Path) -> None:
    """An unreadable journal raises IncompleteError with the system's message."""

    async def main() -> None:
        attempt = begin_attempt(tmp_path, 0, "session")
        (attempt.folder / f"{0:020d}.journal").mkdir()
        async with Subscription(Target(tmp_path)) as subscription:
            with pytest.raises(IncompleteError, match="Is a directory"):
                await anext(subscription)

    run(main())


def test_acknowledging_without_publisher_does_nothing(tmp_path: Path) -> None:
    """Acknowledging without a publisher, or to one that is gone, raises nothing."""

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


def test_read_ahead_is_limited_in_batches(tmp_path: Path) -> None:
    """At most `READ_AHEAD_BATCHES` batches are read before the consumer asks for them."""

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


def test_read_ahead_is_limited_in_bytes(tmp_path: Path) -> None:
    """Large batches are read ahead only until `read_ahead_bytes` are reached."""

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


def test_heartbeat_reveals_a_lost_tail(tmp_path: Path) -> None:
    """If the last batches were dropped, the next heartbeat makes the reader get them from the history."""

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


def test_a_later_publisher_that_is_busy_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The rest of an attempt is awaited if the publisher of the next one answers `hello` but not yet `fetch`."""
    monkeypatch.setattr(Requester.request, "__kwdefaults__", {"timeout": 0.5})

    async def main() -> None:
        async with Publisher(tmp_path) as first:
            first.scalars(3)
            async with Subscription(Target(tmp_path), use_journal=False) as subscription:
                found = [await anext(subscription)]
                while subscription.heartbeat is None:
                    await asyncio.sleep(0.01)
                async with Publisher(tmp_path, take_over=True) as second:
                    rest = first.recorder.scalars(5)
                    first._journal.append([rest])
                    second.happened("run/resumed", **{"from": {"attempt": 0, "seq": 7}})
                    second.end()
                    second.server.responder._rest_until = time.monotonic() + 1.5
                    found += await collect(subscription)
                    assert frames(found) == frames([*first.recorded, rest, *second.recorded])

    run(main())


def test_live_messages_of_an_earlier_attempt_are_ignored(tmp_path: Path) -> None:
    """Neither a batch nor a heartbeat of an attempt before the cursor's is delivered, counted or taken for a gap."""

    async def main() -> None:
        async with Publisher(tmp_path) as first:
            first.scalars(2)
        async with Publisher(tmp_path, take_over=True) as second, Subscription(Target(tmp_path)) as subscription:
            second.scalars(2)
            found = [await anext(subscription), await anext(subscription)]
            while subscription.heartbeat is None:
                await asyncio.sleep(0.01)
            late = first.recorder.scalars(500)
            header = Header(late.header.run, 0, 0, HEARTBEAT, 900, 0, {"event": 899}, last=True)
            for frames_ in (
                [late.topic, late.header_bytes, late.body],
                [topic(HEARTBEAT, header.run, 0), encode_header(header), b"\x80"],
            ):
                second.server._publisher.send_multipart(frames_)
            second.rest()
            second.scalars(2)
            found.append(await anext(subscription))
            assert subscription.heartbeat.header.attempt == 1
            second.end()
            found += await collect(subscription)
            assert frames(found) == frames([*first.recorded, *second.recorded])
            assert subscription.gaps == subscription.malformed == 0

    run(main())


def test_subscriber_that_never_reads_delays_nobody(tmp_path: Path) -> None:
    """A subscriber that never reads does not affect another one."""

    async def main() -> None:
        async with Publisher(tmp_path, high_water_mark=10) as publisher:
            with zmq.Context() as context, context.socket(zmq.SUB) as silent:
                silent.subscribe(b"")
                silent.linger = 0
                silent.connect(publisher.server.publish_endpoint)
                async with Subscription(Target(tmp_path)) as subscription:
                    reading = asyncio.ensure_future(collect(subscription))
                    for _ in range(1000):
                        publisher.scalars(50)
                    publisher.end()
                    assert frames(await reading) == frames(publisher.recorded)

    run(main())
