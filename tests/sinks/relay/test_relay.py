"""Relays, tested with real publishers and sockets."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import shutil
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from support.publisher import Publisher, run
from support.recorder import frames
from support.run_reader import journal_bytes, until

from trainwire_protocol.errors import OptionError, OutputError, RequestError
from trainwire_protocol.journal.records import encode_record
from trainwire_protocol.journal.run_folder import list_attempts
from trainwire_protocol.journal.segments import JournalWriter, list_segments
from trainwire_protocol.journal.verification import verify_run
from trainwire_protocol.subscription.subscription import Subscription
from trainwire_protocol.subscription.target import Target
from trainwire_protocol.transport.connection import connection_path, read_connection, write_connection
from trainwire_protocol.transport.endpoints import Tcp
from trainwire_protocol.wire import Batch
from trainwire_sinks.relay import relay as relays
from trainwire_sinks.relay.follower import READ_AHEAD_BYTES
from trainwire_sinks.relay.relay import Relay


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relays, "SCAN_SECONDS", 0.05)


@asynccontextmanager
async def relaying(*sources: Path | str, to: Path, **options: Any) -> AsyncIterator[Relay]:
    """Run a relay within the context."""
    relay = Relay([str(source) for source in sources], to, options.pop("tcp", Tcp()), **options)
    running = asyncio.ensure_future(relay.run())
    try:
        yield relay
    finally:
        relay.stop()
        await running


async def read_all(target: Target, **options: Any) -> list[tuple[bytes, bytes]]:
    """Return every batch of a run, up to its end."""
    async with Subscription(target, channels=("event", "media"), **options) as subscription:
        return frames([batch async for batch in subscription])


def test_two_runs_with_two_ranks_are_copied(tmp_path: Path) -> None:
    """Each rank of each run is copied byte for byte to a run folder, and can be read live from there."""

    async def main() -> None:
        async with contextlib.AsyncExitStack() as stack:
            publishers = [
                await stack.enter_async_context(Publisher(tmp_path / "runs" / name, rank=rank))
                for name in ("a", "b") for rank in (0, 1)
            ]  # fmt: skip
            relay = await stack.enter_async_context(relaying(tmp_path / "runs", to=tmp_path / "copies"))
            copies = {publisher.attempt.run: tmp_path / "copies" / publisher.attempt.run for publisher in publishers}
            for publisher in publishers:
                publisher.scalars(5)
            await until(lambda: all(connection_path(copies[publisher.attempt.run], publisher.attempt.rank).exists()
                                    for publisher in publishers))  # fmt: skip
            readers = [
                asyncio.ensure_future(read_all(Target(copies[publisher.attempt.run]), rank=publisher.attempt.rank))
                for publisher in publishers
            ]
            for number in range(30):
                for publisher in publishers:
                    publisher.scalars(3, "media" if number % 7 == 6 else "event")
                await asyncio.sleep(0.005)
            for publisher in publishers:
                publisher.end()
            for publisher, batches in zip(publishers, await asyncio.gather(*readers), strict=True):
                assert batches == frames(publisher.recorded)
                copied = journal_bytes(copies[publisher.attempt.run], publisher.attempt.rank)
                assert copied == journal_bytes(publisher.folder, publisher.attempt.rank)
            assert not relay.incomplete
            assert {report.is_whole for folder in copies.values() for report in verify_run(folder)} == {True}

    run(main())


def test_the_relay_acknowledges_what_it_has_copied(tmp_path: Path) -> None:
    """The trainer sees the relay as one reader, and waits for it at its end as for any sink."""

    async def main() -> None:
        async with Publisher(tmp_path / "run") as publisher, relaying(tmp_path / "run", to=tmp_path / "copies"):
            publisher.scalars(5)
            await until(lambda: publisher.server.responder.sinks)
            publisher.end()
            last = publisher.recorded[-1].cursor.seq
            assert await publisher.server.wait_for_sinks(last, 20) == []
            assert len(publisher.server.responder.sinks) == 1

    run(main())


def test_the_copy_is_served_after_the_end_of_the_run(tmp_path: Path) -> None:
    """Without the trainer and its folder, a client reads the whole run from the relay over TCP."""

    async def main() -> None:
        copies = tmp_path / "copies"
        publishing, copying = Publisher(tmp_path / "run"), relaying(tmp_path / "run", to=copies, until_over=True)
        async with publishing as publisher, copying as relay:
            publisher.scalars(5)
            publisher.scalars(2, "media")
            publisher.end()
            await until(relay._stopping.is_set)
        (tmp_path / "run").rename(tmp_path / "gone")
        copy = copies / publisher.attempt.run
        tcp = Tcp("tcp://127.0.0.1:0")
        connections = []
        for _ in range(2):
            before = connection_path(copy, 0).read_text()
            async with relaying(tmp_path / "run", to=copies, tcp=tcp):
                await until(lambda before=before: connection_path(copy, 0).read_text() != before)
                connection = read_connection(connection_path(copy, 0))
                connections.append((connection.publish, connection.request, connection.keys))
                away = Target(folder=None, request=connection.request, connection=connection)
                assert await read_all(away) == frames(publisher.recorded)
        assert connections[0] == connections[1]
        assert connections[0][2]

    run(main())


def test_a_resumed_run_is_copied(tmp_path: Path) -> None:
    """A later attempt is added to the same copy, and readers of the copy continue with it."""

    async def main() -> None:
        async with contextlib.AsyncExitStack() as stack:
            first = await stack.enter_async_context(Publisher(tmp_path / "run"))
            await stack.enter_async_context(relaying(tmp_path / "run", to=tmp_path / "copies"))
            copy = tmp_path / "copies" / first.attempt.run
            first.scalars(5)
            await until(lambda: journal_bytes(copy))
            reading = asyncio.ensure_future(read_all(Target(copy)))
            away = read_connection(connection_path(copy, 0))
            far = asyncio.ensure_future(read_all(Target(folder=None, request=away.request, connection=away)))
            second = await stack.enter_async_context(Publisher(tmp_path / "run", take_over=True))
            second.happened("run/resumed", **{"from": {"attempt": 0, "seq": 4}, "from_step": 1})
            second.scalars(4)
            second.end()
            expected = frames(first.recorded + second.recorded)
            assert await reading == expected
            assert await far == expected
            assert journal_bytes(copy) == journal_bytes(tmp_path / "run")

    run(main())


def test_a_replaced_connection_file_moves_the_relay_to_the_new_attempt(tmp_path: Path) -> None:
    """If a connection file is replaced by that of a later attempt, the relay leaves the silent trainer."""

    async def main() -> None:
        (tmp_path / "known").mkdir()
        async with contextlib.AsyncExitStack() as stack:
            await stack.enter_async_context(relaying(tmp_path / "known", to=tmp_path / "copies"))
            async with Publisher(tmp_path / "run") as first:
                shutil.copy(connection_path(tmp_path / "run", 0), tmp_path / "known" / "mine.json")
                first.scalars(5)
                copy = tmp_path / "copies" / first.attempt.run
                await until(lambda: journal_bytes(copy) == journal_bytes(tmp_path / "run"))
                first.scalars(5)
            second = await stack.enter_async_context(Publisher(tmp_path / "run", take_over=True))
            second.happened("run/resumed", **{"from": {"attempt": 0, "seq": 4}, "from_step": 1})
            second.end()
            shutil.copy(connection_path(tmp_path / "run", 0), tmp_path / "known" / "mine.json")
            await until(lambda: journal_bytes(copy) == journal_bytes(tmp_path / "run"))

    run(main())


def test_a_run_that_continues_after_its_end_is_followed_again(tmp_path: Path) -> None:
    """A finished run that was copied is followed again when a later attempt begins."""

    async def main() -> None:
        async with relaying(tmp_path / "run", to=tmp_path / "copies"):
            for take_over in (False, True):
                async with Publisher(tmp_path / "run", take_over=take_over) as publisher:
                    publisher.scalars(3)
                    publisher.end()
                    copy = tmp_path / "copies" / publisher.attempt.run
                    await until(lambda copy=copy: journal_bytes(copy) == journal_bytes(tmp_path / "run"))
            assert [attempt.number for attempt in list_attempts(copy, 0)] == [0, 1]

    run(main())


def test_commands_are_forwarded_or_refused(tmp_path: Path) -> None:
    """A command reaches the trainer, whose refusal is returned; after the end of the run the relay refuses it."""
    applied: list[str] = []

    def apply_command(identifier: str, verb: str, arguments: object) -> None:
        if verb == "set":
            raise RequestError("not this one")
        applied.append(f"{identifier} {verb} {arguments}")

    async def main() -> None:
        async with Publisher(tmp_path / "run") as publisher, relaying(tmp_path / "run", to=tmp_path / "copies"):
            publisher.server.responder.on_command = apply_command
            publisher.scalars(1)
            copy = tmp_path / "copies" / publisher.attempt.run
            await until(lambda: journal_bytes(copy))
            async with Subscription(Target(copy)) as subscription:
                await anext(subscription)
                await until(lambda: subscription._source.requester)
                await subscription.command("a", "stop", {"reason": "enough"})
                with pytest.raises(RequestError, match=r"^the publisher refused command: not this one$"):
                    await subscription.command("b", "set", {})
                publisher.end()
                await until(lambda: all(attempt.read_lease().released for attempt in list_attempts(copy, 0)))
                with pytest.raises(RequestError, match="the relay cannot forward commands"):
                    await subscription.command("c", "stop", {})

    run(main())
    assert applied == ["a stop {'reason': 'enough'}"]


def test_heartbeats_come_from_the_trainer(tmp_path: Path) -> None:
    """State and step are those of the trainer; when the trainer is silent, so is the relay."""

    async def main() -> None:
        async with relaying(tmp_path / "run", to=tmp_path / "copies"), Publisher(tmp_path / "run") as publisher:
            publisher.scalars(1)
            copy = tmp_path / "copies" / publisher.attempt.run
            await until(lambda: journal_bytes(copy))
            async with Subscription(Target(copy)) as subscription:
                await until(lambda: subscription.heartbeat)
                assert subscription.heartbeat
                assert subscription.heartbeat.fields["state"] == "running"
                assert subscription.heartbeat.header.before == {"event": 0}
                publisher._tasks[1].cancel()
                heard = -1.0
                while heard != subscription.heartbeat.received:
                    heard = subscription.heartbeat.received
                    await asyncio.sleep(1.2)
            publisher.end()

    run(main())


@pytest.mark.parametrize("kept", [0, 1, 19, 30])
def test_a_torn_record_at_the_end_is_replaced(tmp_path: Path, kept: int) -> None:
    """A partial record that a killed relay has left is cut off, and the whole record is copied again."""

    async def main() -> None:
        async with Publisher(tmp_path / "run") as publisher:
            publisher.scalars(3)
            async with relaying(tmp_path / "run", to=tmp_path / "copies"):
                copy = tmp_path / "copies" / publisher.attempt.run
                await until(lambda: journal_bytes(copy) == journal_bytes(tmp_path / "run"))
            torn = publisher.scalars(3)
            with list_segments(list_attempts(copy, 0)[0].folder)[-1].open("ab") as segment:
                segment.write(encode_record(torn)[:kept])
            publisher.end()
            async with relaying(tmp_path / "run", to=tmp_path / "copies", until_over=True) as relay:
                await until(relay._stopping.is_set)
            assert journal_bytes(copy) == journal_bytes(tmp_path / "run")
            assert all(report.is_whole and report.ending for report in verify_run(copy))

    run(main())


def test_a_reader_waits_for_a_relay_that_restarts(tmp_path: Path) -> None:
    """A reader of the copy does not mistake the relay's end for that of the run, and continues after a restart."""

    async def main() -> None:
        async with Publisher(tmp_path / "run") as publisher:
            publisher.scalars(3)
            async with relaying(tmp_path / "run", to=tmp_path / "copies"):
                copy = tmp_path / "copies" / publisher.attempt.run
                await until(lambda: journal_bytes(copy))
                reading = asyncio.ensure_future(read_all(Target(copy)))
            publisher.scalars(3)
            await asyncio.sleep(1)
            assert not reading.done()
            async with relaying(tmp_path / "run", to=tmp_path / "copies"):
                publisher.end()
                assert await reading == frames(publisher.recorded)

    run(main())


def test_the_copy_of_a_dead_trainer_is_over(tmp_path: Path) -> None:
    """The copy of a run whose process was killed is over, without a last event."""

    async def main() -> None:
        async with Publisher(tmp_path / "run") as publisher:
            publisher.scalars(3)
        connection = read_connection(connection_path(tmp_path / "run", 0))
        gone = connection.process._replace(started="another")
        write_connection(connection_path(tmp_path / "run", 0), replace(connection, process=gone))
        lease = publisher.attempt.read_lease()
        assert lease
        publisher.attempt.write_lease(replace(lease, process=gone))
        async with relaying(tmp_path / "run", to=tmp_path / "copies") as relay:
            await until(lambda: relay._done)
            copy = tmp_path / "copies" / publisher.attempt.run
            away = read_connection(connection_path(copy, 0))
            expected = frames(publisher.recorded)
            assert await read_all(Target(copy)) == expected
            assert await read_all(Target(folder=None, request=away.request, connection=away)) == expected
        assert [(report.ending, report.is_live) for report in verify_run(copy)] == [(None, False)]

    run(main())


def test_a_run_without_a_connection_file_is_copied(tmp_path: Path) -> None:
    """A run's folder without a connection file is copied from its journal."""

    async def main() -> None:
        async with Publisher(tmp_path / "run") as publisher:
            publisher.scalars(3)
            publisher.end()
        connection_path(tmp_path / "run", 0).unlink()
        async with relaying(tmp_path / "run", to=tmp_path / "copies", until_over=True) as relay:
            await until(relay._stopping.is_set)
        assert journal_bytes(tmp_path / "copies" / publisher.attempt.run) == journal_bytes(tmp_path / "run")

    run(main())


def test_a_full_disk_delays_the_copy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A failed write is repeated and logged once; nothing is lost."""
    append, failures = JournalWriter.append, iter([True, True])

    def fail_first(writer: JournalWriter, batches: list[Batch]) -> None:
        if "copies" in writer.folder.parts and next(failures, False):
            raise OSError(28, "No space left on device")
        append(writer, batches)

    monkeypatch.setattr(JournalWriter, "append", fail_first)

    async def main() -> None:
        async with Publisher(tmp_path / "run") as publisher:
            async with relaying(tmp_path / "run", to=tmp_path / "copies", until_over=True) as relay:
                publisher.scalars(3)
                publisher.end()
                await until(relay._stopping.is_set)
            assert journal_bytes(tmp_path / "copies" / publisher.attempt.run) == journal_bytes(tmp_path / "run")

    run(main())
    assert caplog.text.count("No space left") == 1


def test_read_ahead_is_bounded_while_the_disk_hangs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While its disk hangs the relay reads a bounded amount, and the rest once the disk has recovered."""
    append, disk = JournalWriter.append, threading.Event()

    def hang(writer: JournalWriter, batches: list[Batch]) -> None:
        if "copies" in writer.folder.parts:
            disk.wait()
        append(writer, batches)

    monkeypatch.setattr(JournalWriter, "append", hang)

    async def main() -> None:
        publishing, copying = Publisher(tmp_path / "run", high_water_mark=10), relaying(away, to=tmp_path / "copies")
        async with publishing as publisher:
            shutil.copy(connection_path(tmp_path / "run", 0), away)
            async with copying as relay:
                publisher.scalars(1)
                await until(lambda: [follower for follower in relay._followers.values() if follower._open])
                ready = next(iter(relay._followers.values()))._open._ready
                for _ in range(100):
                    for _ in range(10):
                        publisher.scalars(100)
                    await asyncio.sleep(0)
                await until(ready.full)
                assert sum(len(batch.body) for batch in ready._queue) < READ_AHEAD_BYTES + 10_000
                disk.set()
                publisher.end()
                copy = tmp_path / "copies" / publisher.attempt.run
                await until(lambda: journal_bytes(copy) == journal_bytes(tmp_path / "run"))

    away = tmp_path / "away.json"
    run(main())


def test_an_unreadable_batch_is_copied_unchanged(tmp_path: Path) -> None:
    """A batch whose body is not a list of events is copied byte for byte; its readers skip and report it."""

    async def main() -> None:
        async with Publisher(tmp_path / "run") as publisher:
            async with relaying(tmp_path / "run", to=tmp_path / "copies", until_over=True) as relay:
                batch = publisher.recorder.scalars(2)
                publisher.publish(Batch(batch.header, batch.header_bytes, b"hparams \xc1"))
                publisher.end()
                await until(relay._stopping.is_set)
            assert journal_bytes(tmp_path / "copies" / publisher.attempt.run) == journal_bytes(tmp_path / "run")

    run(main())


def test_a_folder_has_one_relay(tmp_path: Path) -> None:
    """A second relay on the same folder is refused with a message that names the first one."""

    async def main() -> None:
        (tmp_path / "runs").mkdir()
        async with relaying(tmp_path / "runs", to=tmp_path / "copies"):
            await until((tmp_path / "copies" / ".trainwire" / "relay-rank0.claim").exists)
            with pytest.raises(OutputError, match="is being written by process"):
                await Relay([str(tmp_path / "runs")], tmp_path / "copies", Tcp()).run()

    run(main())


def test_a_relay_does_not_copy_its_copies(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Copies below a source's folder are ignored; a damaged connection file is reported once."""

    async def main() -> None:
        runs = tmp_path / "runs"
        async with Publisher(runs / "run") as publisher:
            publisher.scalars(3)
            publisher.end()
            (runs / "connection-rank0.json").write_text("{")
            for folder, source in ((runs / "copies", runs), (tmp_path / "of-a-run", runs / "run")):
                async with relaying(source, to=folder, until_over=True) as relay:
                    await until(relay._stopping.is_set)
                assert relay._done.keys() == {(publisher.attempt.run, 0)}
                assert journal_bytes(folder / publisher.attempt.run) == journal_bytes(runs / "run")
            with pytest.raises(OptionError, match="is in the output folder of this relay"):
                await Relay([str(runs / "run")], runs, Tcp()).run()

    with caplog.at_level(logging.WARNING):
        run(main())
    assert len(caplog.records) == 1
