"""The sink `nats`, and nats:// as a TARGET, tested with a real server."""

from __future__ import annotations

import asyncio
import contextlib
import re
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from uuid import uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.nats_servers import NatsServer, nats_servers
from support.publisher import Publisher, run
from support.recorder import Recorder, frames, scalar
from support.run_reader import read_batches, wait_until

from trainwire_protocol.errors import OptionError
from trainwire_protocol.events import Event
from trainwire_protocol.subscription.subscription import Subscription
from trainwire_protocol.subscription.target import resolve_target
from trainwire_protocol.wire import Batch, Cursor, Header
from trainwire_sinks.cli.app import run as run_command
from trainwire_sinks.nats import connection
from trainwire_sinks.nats.address import parse_address, parse_servers
from trainwire_sinks.nats.connection import connect
from trainwire_sinks.nats.stream_output import StreamOutput
from trainwire_sinks.nats.subjects import PART_BYTES, escape, message_id, parse_message_id, unescape
from trainwire_sinks.runtime.exit_codes import ExitCode
from trainwire_sinks.testing.check_sink import record
from trainwire_sinks.testing.sample import sample_attempts, sample_restarts

Trainwire = Callable[..., "subprocess.Popen[str]"]
WriteRun = Callable[..., Path]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsServer]:
    """Run one server for the tests of this file, each of which uses a stream of its own."""
    with nats_servers(tmp_path_factory.mktemp("nats")) as servers:
        yield servers[0]


@pytest.fixture
def stream() -> str:
    """Return the name of a stream that does not exist yet."""
    return f"s-{uuid4().hex[:8]}"


def large_image(step: int) -> Event:
    """Return an event that needs several messages."""
    return Event("image", {"data": bytes(3 * PART_BYTES), "format": "png"}, "image", 1.75e9, step)


def some_run(attempts: int = 1, name: str = "digits.1 ü") -> list[Batch]:
    """Return batches of both channels, including large ones, and of attempts that resume from earlier ones."""
    batches: list[Batch] = []
    for attempt in range(attempts):
        recorder = Recorder(name, attempt=attempt)
        start = {"from": {"attempt": attempt - 1, "seq": 4}, "from_step": 4} if attempt else {}
        batches.append(recorder.happened("run/resumed" if attempt else "run/started", **start))
        for number in range(6):
            batches.append(recorder.scalars(2))
            batches.append(recorder.record([large_image(number)] if number == 3 else [scalar(number)], "media"))
        batches.append(recorder.happened("run/finished", last_seq=recorder.seq))
    return batches


def publish(folder: Path, server: NatsServer, stream: str, output: Path | None = None) -> int:
    options = ["--server", server.url, "--stream", stream, *(["--output", str(output)] if output else [])]
    return run_command(["sink", "nats", str(folder), *options])


def read(target: str, **options: object) -> list[Batch]:
    """Read every batch of a target."""

    async def main() -> list[Batch]:
        async with Subscription(resolve_target(target), channels=("event", "media"), **options) as subscription:  # type: ignore[arg-type]
            return [batch async for batch in subscription]

    return asyncio.run(asyncio.wait_for(main(), 40))


async def stored_batches(server: NatsServer, stream: str) -> list[tuple[str, str, bytes]]:
    """Return the subject, id and data of every message with a batch or a part of one, in the stream's order."""
    client = await connect([server.url])
    try:
        context = client.jetstream()
        subscription = await context.subscribe(f"{stream}.*.*.*.*", ordered_consumer=True)
        info = await context.stream_info(stream, subjects_filter=f"{stream}.*.*.*.*")
        count = sum((info.state.subjects or {}).values())
        messages = [await subscription.next_msg(5) for _ in range(count)]
    finally:
        await client.close()
    return [(message.subject, (message.headers or {})["Nats-Msg-Id"], message.data) for message in messages]


def test_published_batches_equal_the_journal(
    write_run: WriteRun, server: NatsServer, stream: str, tmp_path: Path
) -> None:
    """Every batch of both channels and all attempts is read back byte for byte, including large ones."""
    folder = write_run(some_run(2))
    assert publish(folder, server, stream) == 0
    found = read(f"{server.url}/{'digits.1 ü'}?stream={stream}")
    assert frames(found) == frames(read_batches(folder))
    assert len(found) == 28
    subjects = {subject for subject, _, _ in asyncio.run(stored_batches(server, stream))}
    assert f"{stream}.digits=2E1=20=C3=BC.0.event.1" in subjects
    assert f"{stream}.digits=2E1=20=C3=BC.0.media.0" in subjects


def test_publishing_again_stores_nothing_twice(
    write_run: WriteRun, server: NatsServer, stream: str, tmp_path: Path
) -> None:
    """A second sink without the first one's state adds no message, even if the servers have forgotten the ids."""
    folder = write_run(some_run())

    async def create_stream() -> None:
        from nats.js.api import StreamConfig

        client = await connect([server.url])
        config = StreamConfig(name=stream, subjects=[f"{stream}.>"], duplicate_window=0.1, allow_rollup_hdrs=True)
        await client.jetstream().add_stream(config)
        await client.close()

    asyncio.run(create_stream())
    assert publish(folder, server, stream, tmp_path / "first") == 0
    before = [identity for _, identity, _ in asyncio.run(stored_batches(server, stream))]
    assert publish(folder, server, stream, tmp_path / "second") == 0
    assert [identity for _, identity, _ in asyncio.run(stored_batches(server, stream))] == before
    assert len(set(before)) == len(before) == 14 + 3


def test_a_killed_publisher_continues_at_the_end_of_the_stream(server: NatsServer, stream: str) -> None:
    """After a sink was killed between two parts of a batch, the next one stores the rest and nothing else."""
    batches = some_run()

    async def main() -> None:
        for limit in (3, 6, 100):
            output = LimitedOutput(parse_servers(server.url), stream, 1)
            output.left = limit
            await output.open(0)
            with contextlib.suppress(asyncio.CancelledError):
                for batch in batches:
                    await output.publish(batch)
            await output.close()

    asyncio.run(asyncio.wait_for(main(), 40))
    ids = [identity for _, identity, _ in asyncio.run(stored_batches(server, stream))]
    assert ids == [message_id(batch.header, part) for batch in batches for part in range(parts(batch))]


def parts(batch: Batch) -> int:
    return 4 if len(batch.body) > PART_BYTES else 1


class LimitedOutput(StreamOutput):
    """Is cancelled after `left` messages."""

    left = 0

    async def _store(self, subject: str, data: bytes, headers: dict[str, str]) -> None:
        if not self.left:
            raise asyncio.CancelledError
        self.left -= 1
        await super()._store(subject, data, headers)


@pytest.mark.timeout(180)
def test_a_sink_reads_a_stream_and_continues_after_a_kill(
    trainwire: Trainwire, server: NatsServer, stream: str, tmp_path: Path
) -> None:
    """A sink on a live run's stream is killed and restarted, and writes the same file as a sink on the run's folder."""
    target, far = f"{server.url}/?stream={stream}", tmp_path / "far"

    async def main() -> None:
        async with Publisher(tmp_path / "run") as publisher:
            publisher.happened("run/started")
            publisher.renew()
            sending = trainwire("sink", "nats", tmp_path / "run", "--server", server.url, "--stream", stream)
            reading = trainwire("sink", "jsonl", target, "--output", far)
            publisher.scalars(100)
            await wait_in_thread(lambda: (far / "events.jsonl").exists() and lines(far) >= 101)
            reading.kill()
            publisher.scalars(100)
            publisher.scalars(100)
            reading = trainwire("sink", "jsonl", target, "--output", far)
            publisher.end()
            for process in (sending, reading):
                assert await asyncio.to_thread(process.wait, 30) == 0, process.stderr and process.stderr.read()

    run(main())
    assert run_command(["sink", "jsonl", str(tmp_path / "run"), "--output", str(tmp_path / "near")]) == 0
    assert (far / "events.jsonl").read_bytes() == (tmp_path / "near" / "events.jsonl").read_bytes()


async def wait_in_thread(condition: Callable[[], object]) -> None:
    await asyncio.to_thread(wait_until, condition, 25)


def lines(folder: Path) -> int:
    return len((folder / "events.jsonl").read_bytes().splitlines())


def test_the_servers_store_the_position_of_a_sink(
    write_run: WriteRun, server: NatsServer, stream: str, tmp_path: Path
) -> None:
    """Committed batches are not sent to a sink again, but all are if it has lost its output."""
    folder = write_run(some_run())
    publish(folder, server, stream)
    target = resolve_target(f"{server.url}/?stream={stream}").for_sink("jsonl", tmp_path, 0)

    async def received(cursor: Cursor) -> int:
        """Read and acknowledge everything after a cursor; return the number of batches."""
        async with Subscription(target, channels=("event", "media"), cursor=cursor) as subscription:
            batches = [batch async for batch in subscription]
            await subscription.acknowledge(batches[-1].cursor if batches else cursor)
            return len(batches)

    async def main() -> list[int]:
        from trainwire_sinks.nats.consumer import Consumer

        whole = await received(Cursor(0, -1))
        client = await connect([server.url])
        reader = target.archive.reader  # type: ignore[union-attr]
        acknowledged = await Consumer(client.jetstream(), stream, [], reader).acknowledged()
        last = (await client.jetstream().get_last_msg(stream, f"{stream}.*.*.event.*")).seq
        await client.close()
        return [whole, await received(Cursor(0, 20)), await received(Cursor(0, -1)), acknowledged - (last or 0)]

    assert asyncio.run(asyncio.wait_for(main(), 40)) == [14, 0, 14, 0]


@pytest.mark.parametrize(
    ("command", "options"),
    [
        ("tail", ["--json"]),
        ("watch", ["--plain"]),
        ("export", ["--format", "jsonl"]),
        ("replay", ["--to", "jsonl", "--output", "{}"]),
    ],
)
def test_every_command_reads_a_stream(
    write_run: WriteRun,
    server: NatsServer,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    command: str,
    options: list[str],
) -> None:
    """A command shows the same for a stream as for the run's folder."""
    stream, folder, written = f"commands-{command}", write_run(some_run(2, "digits")), tmp_path / "written"
    publish(folder, server, stream)
    shown = []
    for target in (str(folder), f"{server.url}/digits?stream={stream}"):
        capsys.readouterr()
        assert (
            run_command([command, target, *(str(option).format(written / str(len(shown))) for option in options)]) == 0
        )
        file = written / str(len(shown)) / "events.jsonl"
        shown.append(file.read_text() if file.exists() else capsys.readouterr().out)
    if command == "watch":
        # These lines contain the time at which they were printed.
        shown = ["".join(line for line in text.splitlines() if not line.startswith("-- ")) for text in shown]
    assert shown[0]
    assert shown[0] == shown[1]


def test_earlier_starts_are_read_from_a_stream(
    write_run: WriteRun, server: NatsServer, stream: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A sink keeps the same files aside as one that reads the folder, and `--attempt` exports the same rows."""
    folder = write_run(record(*sample_attempts(), *sample_restarts(), run="digits"))
    publish(folder, server, stream)
    address = f"{server.url}/digits?stream={stream}"
    for target, output in ((str(folder), tmp_path / "near"), (address, tmp_path / "far")):
        assert run_command(["sink", "loss-file", target, "--output", str(output)]) == 0
    names = [path.name for path in sorted((tmp_path / "near").glob("loss*"))]
    assert names == ["loss.attempt-1.tsv", "loss.attempt-3.tsv", "loss.tsv"]
    for name in names:
        assert (tmp_path / "far" / name).read_bytes() == (tmp_path / "near" / name).read_bytes()
    for attempt in range(5):
        exported = []
        for target in (str(folder), address):
            capsys.readouterr()
            assert run_command(["export", target, "--attempt", str(attempt)]) == 0
            exported.append(capsys.readouterr().out)
        assert exported[0] == exported[1] != ""


def test_a_stream_is_compared_with_a_folder(
    write_run: WriteRun, server: NatsServer, stream: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """A run in a stream has the same metrics as its folder, and no password is shown."""
    folder = write_run(some_run(2, "digits"))
    publish(folder, server, stream)
    capsys.readouterr()
    address = f"{server.url.replace('://', '://ann:secret@')}/digits?stream={stream}"
    assert run_command(["compare", str(folder), address]) == 0
    shown = "".join(capsys.readouterr())
    assert "have the same metrics at every step" in shown
    assert "secret" not in shown


@pytest.mark.parametrize(
    "command", [["ping"], ["verify"], ["send", "stop"], ["relay", "--output", "copies"]], ids=lambda command: command[0]
)
def test_commands_that_accept_no_stream(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], command: list[str]
) -> None:
    """A command that needs a publisher or a journal rejects a stream and lists what it accepts, in one line."""
    monkeypatch.chdir(tmp_path)
    name, *rest = command
    assert run_command([name, "nats://ann:secret@127.0.0.1/run", *rest]) == ExitCode.USAGE
    error = capsys.readouterr().err
    assert "nats://127.0.0.1/run is a stream: give the run's folder, a connection file or tcp://host:port" in error
    assert len(error.splitlines()) == 1


@pytest.mark.parametrize("command", ["tail", "export"])
def test_a_live_run_is_read_up_to_its_present_end(
    trainwire: Trainwire, server: NatsServer, tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    """A command that does not follow the run reads what is stored now and ends, however fast the run continues."""
    stream = f"now-{command}"

    async def keep_publishing(publisher: Publisher) -> None:
        while True:
            publisher.scalars(1)
            publisher.renew()
            await asyncio.sleep(0.02)

    async def main() -> None:
        async with Publisher(tmp_path / "run") as publisher:
            publisher.happened("run/started")
            sending = trainwire("sink", "nats", tmp_path / "run", "--server", server.url, "--stream", stream)
            publishing = asyncio.create_task(keep_publishing(publisher))
            await wait_in_thread(lambda: asyncio.run(has_begun(server, stream)))
            arguments = [command, f"{server.url}/?stream={stream}"]
            assert await asyncio.wait_for(asyncio.to_thread(run_command, arguments), 20) == 0
            publishing.cancel()
            sending.kill()

    run(main())
    assert "run/started" in capsys.readouterr().out or command == "tail"


async def has_begun(server: NatsServer, stream: str) -> bool:
    try:
        return len(await stored_batches(server, stream)) > 5
    except Exception:
        return False


@pytest.mark.parametrize(
    ("target", "code", "message"),
    [
        ("nats://", ExitCode.USAGE, "use nats://host:port/run"),
        ("nats://ann:secret@a b/run", ExitCode.USAGE, "use nats://host:port/run"),
        ("nats://127.0.0.1/run?stream=a.b", ExitCode.USAGE, "invalid stream name 'a.b'"),
        ("nats://127.0.0.1/run?other=1", ExitCode.USAGE, "use nats://host:port/run"),
        ("nats://127.0.0.1:1/run", ExitCode.INCOMPLETE, "no publisher answers at nats://127.0.0.1:1/run"),
    ],
)
def test_a_target_that_cannot_be_read(
    target: str, code: ExitCode, message: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error is one line that states the problem and never contains the password."""
    monkeypatch.setattr(connection, "CONNECT_SECONDS", 0.3)
    assert run_command(["export", target]) == code
    error = capsys.readouterr().err
    assert message in error
    assert "secret" not in error
    assert len(error.splitlines()) == 1


def test_one_of_several_runs_must_be_named(
    write_run: WriteRun, server: NatsServer, stream: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """An address without a run's name is an error if the stream has several runs; the message lists them."""
    for name in ("a", "b"):
        publish(write_run(some_run(name=name), tmp_path / name), server, stream)
    assert run_command(["export", f"{server.url}?stream={stream}"]) == ExitCode.USAGE
    assert "add a run's name to the address: a, b" in capsys.readouterr().err


def test_the_sink_waits_for_an_unavailable_server(write_run: WriteRun, trainwire: Trainwire, tmp_path: Path) -> None:
    """The sink reports the failure, keeps trying, and stops on a signal."""
    folder = write_run(some_run())
    process = trainwire("sink", "nats", folder, "--server", "nats://127.0.0.1:1")
    assert process.stderr
    assert "retrying" in process.stderr.readline()
    process.terminate()
    assert process.wait(30) == ExitCode.TERMINATED


@given(st.text(min_size=1, max_size=128))
def test_any_name_can_be_escaped(name: str) -> None:
    """An escaped name is one token of a subject and can be unescaped."""
    name = name.encode(errors="replace").decode()
    token = escape(name)
    assert re.fullmatch(r"[A-Za-z0-9_=-]+", token)
    assert unescape(token) == name


@given(st.text(), st.text(), st.integers(0, 9), st.integers(0, 2**63), st.integers(0, 200))
def test_a_message_id_contains_its_batch_and_part(noise: str, run: str, rank: int, seq: int, part: int) -> None:
    """An id is parsed for its own run and rank; any other id returns None."""
    run = f"r{run}".encode(errors="replace").decode()
    header = Header(run, rank, 3, "event", seq, 1, {})
    assert parse_message_id(message_id(header, part), run, rank) == (3, seq, part)
    assert parse_message_id(message_id(header, part), run, rank + 1) is None
    parse_message_id(noise, run, rank)


@given(st.text() | st.text().map(lambda text: f"nats://{text}"))
def test_an_address_is_parsed_or_rejected(text: str) -> None:
    """Any text is a valid address or raises OptionError."""
    try:
        address = parse_address(text)
    except OptionError:
        return
    assert address.servers
    assert re.fullmatch(r"[A-Za-z0-9_-]+", address.stream)


def test_an_address_has_servers_stream_and_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each server has the scheme, and a user without a password that of the environment; neither is shown."""
    monkeypatch.setenv("TRAINWIRE_NATS_PASSWORD", "hidden")
    address = parse_address("nats://ann@a:4222,b,bob:pw@[::1]:4/digits-1?stream=own")
    assert address.servers == ("nats://ann:hidden@a:4222", "nats://b", "nats://bob:pw@[::1]:4")
    assert (address.stream, address.run) == ("own", "digits-1")
    assert str(address) == "nats://a:4222,b,[::1]:4/digits-1"
    assert parse_servers("tls://a:1,tls://b:2") == ("tls://a:1", "tls://b:2")
