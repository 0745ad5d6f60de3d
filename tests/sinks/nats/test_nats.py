"""The sink `nats`, and nats:// as a TARGET, with a real server."""

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
from support.reading import read_batches, wait_until
from support.recording import Recorder, frames, scalar

from trainwire_protocol.errors import OptionError
from trainwire_protocol.events import Event
from trainwire_protocol.subscription.subscription import Subscription
from trainwire_protocol.subscription.target import resolve_target
from trainwire_protocol.wire import Batch, Cursor, Header
from trainwire_sinks.cli import run as run_command
from trainwire_sinks.nats import connection
from trainwire_sinks.nats.address import parse_address, parse_servers
from trainwire_sinks.nats.connection import connect
from trainwire_sinks.nats.stream_output import StreamOutput
from trainwire_sinks.nats.subjects import PART_BYTES, escape, message_id, place_of, unescape
from trainwire_sinks.runtime.exit_codes import ExitCode

Trainwire = Callable[..., "subprocess.Popen[str]"]
WriteRun = Callable[..., Path]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsServer]:
    """One server for the tests of this file, which use streams of their own."""
    with nats_servers(tmp_path_factory.mktemp("nats")) as servers:
        yield servers[0]


@pytest.fixture
def stream() -> str:
    """The name of a stream that is not there yet."""
    return f"s-{uuid4().hex[:8]}"


def big(step: int) -> Event:
    """An event that takes several messages."""
    return Event("image", {"data": bytes(3 * PART_BYTES), "format": "png"}, "image", 1.75e9, step)


def some_run(attempts: int = 1, name: str = "digits.1 ü") -> list[Batch]:
    """Both channels, large batches, and further attempts that keep some of what was before."""
    batches: list[Batch] = []
    for attempt in range(attempts):
        recorder = Recorder(name, attempt=attempt)
        start = {"from": {"attempt": attempt - 1, "seq": 4}, "from_step": 4} if attempt else {}
        batches.append(recorder.happened("run/resumed" if attempt else "run/started", **start))
        for number in range(6):
            batches.append(recorder.scalars(2))
            batches.append(recorder.record([big(number)] if number == 3 else [scalar(number)], "media"))
        batches.append(recorder.happened("run/finished", last_seq=recorder.seq))
    return batches


def publish(folder: Path, server: NatsServer, stream: str, output: Path | None = None) -> int:
    options = ["--server", server.url, "--stream", stream, *(["--output", str(output)] if output else [])]
    return run_command(["sink", "nats", str(folder), *options])


def read(target: str, **options: object) -> list[Batch]:
    """All that a target has."""

    async def main() -> list[Batch]:
        async with Subscription(resolve_target(target), channels=("event", "media"), **options) as subscription:  # type: ignore[arg-type]
            return [batch async for batch in subscription]

    return asyncio.run(asyncio.wait_for(main(), 40))


async def stored_batches(server: NatsServer, stream: str) -> list[tuple[str, str, bytes]]:
    """Subject, id and data of every message that holds a batch, or a part of one, in the stream's order."""
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


def test_what_is_published_is_what_was_journaled(
    write_run: WriteRun, server: NatsServer, stream: str, tmp_path: Path
) -> None:
    """Every batch of both channels and of all attempts comes back byte for byte, large ones too."""
    folder = write_run(some_run(2))
    assert publish(folder, server, stream) == 0
    found = read(f"{server.url}/{'digits.1 ü'}?stream={stream}")
    assert frames(found) == frames(read_batches(folder))
    assert len(found) == 28
    subjects = {subject for subject, _, _ in asyncio.run(stored_batches(server, stream))}
    assert f"{stream}.digits=2E1=20=C3=BC.0.event.1" in subjects
    assert f"{stream}.digits=2E1=20=C3=BC.0.media.0" in subjects


def test_published_again_nothing_is_stored_twice(
    write_run: WriteRun, server: NatsServer, stream: str, tmp_path: Path
) -> None:
    """A second sink, that knows nothing of the first, adds no message: not even where the servers forget ids."""
    folder = write_run(some_run())

    async def forgetful() -> None:
        from nats.js.api import StreamConfig

        client = await connect([server.url])
        wanted = StreamConfig(name=stream, subjects=[f"{stream}.>"], duplicate_window=0.1, allow_rollup_hdrs=True)
        await client.jetstream().add_stream(wanted)
        await client.close()

    asyncio.run(forgetful())
    assert publish(folder, server, stream, tmp_path / "first") == 0
    before = [identity for _, identity, _ in asyncio.run(stored_batches(server, stream))]
    assert publish(folder, server, stream, tmp_path / "second") == 0
    assert [identity for _, identity, _ in asyncio.run(stored_batches(server, stream))] == before
    assert len(set(before)) == len(before) == 14 + 3


def test_a_publisher_that_is_killed_goes_on_where_the_stream_ends(server: NatsServer, stream: str) -> None:
    """One that dies between two parts of a batch is followed by one that stores the rest, and nothing else."""
    batches = some_run()

    async def main() -> None:
        for most in (3, 6, 100):
            output = Dying(parse_servers(server.url), stream, 1)
            output.left = most
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


class Dying(StreamOutput):
    """Comes to its end after so many messages."""

    left = 0

    async def _put(self, subject: str, data: bytes, headers: dict[str, str]) -> None:
        if not self.left:
            raise asyncio.CancelledError
        self.left -= 1
        await super()._put(subject, data, headers)


@pytest.mark.timeout(90)
def test_every_sink_reads_it_and_goes_on_where_it_was(
    trainwire: Trainwire, server: NatsServer, stream: str, tmp_path: Path
) -> None:
    """A sink on the stream of a live run writes what one on its folder writes, though it is killed in between."""
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


def test_the_servers_remember_where_a_sink_is(
    write_run: WriteRun, server: NatsServer, stream: str, tmp_path: Path
) -> None:
    """What a sink has committed is not sent to it again; one that writes elsewhere, or lost its output, gets it all."""
    folder = write_run(some_run())
    publish(folder, server, stream)
    target = resolve_target(f"{server.url}/?stream={stream}").for_sink("jsonl", tmp_path, 0)

    async def received(cursor: Cursor) -> int:
        """How many batches are delivered, and all are acknowledged; those before the cursor are not counted."""
        async with Subscription(target, channels=("event", "media"), cursor=cursor) as subscription:
            batches = [batch async for batch in subscription]
            await subscription.acknowledge(batches[-1].cursor if batches else cursor)
            return len(batches)

    async def main() -> list[int]:
        from trainwire_sinks.nats.consumer import Consumer

        whole = await received(Cursor(0, -1))
        client = await connect([server.url])
        reader = target.archive.reader  # type: ignore[union-attr]
        floor = await Consumer(client.jetstream(), stream, [], reader).floor()
        last = (await client.jetstream().get_last_msg(stream, f"{stream}.*.*.event.*")).seq
        await client.close()
        return [whole, await received(Cursor(0, 20)), await received(Cursor(0, -1)), floor - (last or 0)]

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
def test_every_command_reads_it(
    write_run: WriteRun,
    server: NatsServer,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    command: str,
    options: list[str],
) -> None:
    """What a command tells of a stream is what it tells of the run's folder."""
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
        # The lines that begin so tell the moment at which it looked.
        shown = ["".join(line for line in text.splitlines() if not line.startswith("-- ")) for text in shown]
    assert shown[0]
    assert shown[0] == shown[1]


def test_runs_are_compared(
    write_run: WriteRun, server: NatsServer, stream: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """A run in a stream has the metrics of its folder, and no password is shown."""
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
def test_what_takes_no_stream(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], command: list[str]
) -> None:
    """A command that speaks to a publisher, or reads a journal, says in one line what it takes."""
    monkeypatch.chdir(tmp_path)
    name, *rest = command
    assert run_command([name, "nats://ann:secret@127.0.0.1/run", *rest]) == ExitCode.USAGE
    error = capsys.readouterr().err
    assert "nats://127.0.0.1/run is a stream: give the run's folder, a connection file or tcp://host:port" in error
    assert len(error.splitlines()) == 1


@pytest.mark.parametrize("command", ["tail", "export"])
def test_a_run_that_goes_on_is_read_up_to_now(
    trainwire: Trainwire, server: NatsServer, tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    """Who does not follow a run gets what is stored by now, and ends, however fast the run goes on."""
    stream = f"now-{command}"

    async def go_on(publisher: Publisher) -> None:
        while True:
            publisher.scalars(1)
            publisher.renew()
            await asyncio.sleep(0.02)

    async def main() -> None:
        async with Publisher(tmp_path / "run") as publisher:
            publisher.happened("run/started")
            sending = trainwire("sink", "nats", tmp_path / "run", "--server", server.url, "--stream", stream)
            going = asyncio.create_task(go_on(publisher))
            await wait_in_thread(lambda: asyncio.run(has_begun(server, stream)))
            arguments = [command, f"{server.url}/?stream={stream}"]
            assert await asyncio.wait_for(asyncio.to_thread(run_command, arguments), 20) == 0
            going.cancel()
            sending.kill()

    run(main())
    assert "run/started" in capsys.readouterr().out or command == "tail"


async def has_begun(server: NatsServer, stream: str) -> bool:
    try:
        return len(await stored_batches(server, stream)) > 5
    except Exception:
        return False


@pytest.mark.parametrize(
    ("target", "code", "told"),
    [
        ("nats://", ExitCode.USAGE, "is not nats://host:port/run"),
        ("nats://ann:secret@a b/run", ExitCode.USAGE, "is not nats://host:port/run"),
        ("nats://127.0.0.1/run?stream=a.b", ExitCode.USAGE, "'a.b' is none"),
        ("nats://127.0.0.1/run?other=1", ExitCode.USAGE, "is not nats://host:port/run"),
        ("nats://127.0.0.1:1/run", ExitCode.INCOMPLETE, "no publisher answers at nats://127.0.0.1:1/run"),
    ],
)
def test_what_cannot_be_read(
    target: str, code: ExitCode, told: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A wrong address is one line that says what is wrong, and never the password."""
    monkeypatch.setattr(connection, "CONNECT_SECONDS", 0.3)
    assert run_command(["export", target]) == code
    error = capsys.readouterr().err
    assert told in error
    assert "secret" not in error
    assert len(error.splitlines()) == 1


def test_one_of_several_runs_has_to_be_named(
    write_run: WriteRun, server: NatsServer, stream: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """An address without a run's name stands for the only one there is, and says which there are if there are more."""
    for name in ("a", "b"):
        publish(write_run(some_run(name=name), tmp_path / name), server, stream)
    assert run_command(["export", f"{server.url}?stream={stream}"]) == ExitCode.USAGE
    assert "name one at its end: a, b" in capsys.readouterr().err


def test_a_server_that_is_not_there_is_waited_for(write_run: WriteRun, trainwire: Trainwire, tmp_path: Path) -> None:
    """The sink says so, goes on trying, and ends when it is told to."""
    folder = write_run(some_run())
    process = trainwire("sink", "nats", folder, "--server", "nats://127.0.0.1:1")
    assert process.stderr
    assert "trying again" in process.stderr.readline()
    process.terminate()
    assert process.wait(30) == ExitCode.TERMINATED


@given(st.text(min_size=1, max_size=128))
def test_any_name_can_stand_in_a_subject(name: str) -> None:
    """Escaping gives one part of a subject, and can be undone."""
    name = name.encode(errors="replace").decode()
    part = escape(name)
    assert re.fullmatch(r"[A-Za-z0-9_=-]+", part)
    assert unescape(part) == name


@given(st.text(), st.text(), st.integers(0, 9), st.integers(0, 2**63), st.integers(0, 200))
def test_an_id_says_where_a_message_stands(noise: str, run: str, rank: int, seq: int, part: int) -> None:
    """An id gives back its place for its own run and rank, and anything else gives none."""
    run = f"r{run}".encode(errors="replace").decode()
    header = Header(run, rank, 3, "event", seq, 1, {})
    assert place_of(message_id(header, part), run, rank) == (3, seq, part)
    assert place_of(message_id(header, part), run, rank + 1) is None
    place_of(noise, run, rank)


@given(st.text() | st.text().map(lambda text: f"nats://{text}"))
def test_an_address_is_understood_or_refused(text: str) -> None:
    """Whatever is typed is an address or an error that says what one is."""
    try:
        address = parse_address(text)
    except OptionError:
        return
    assert address.servers
    assert re.fullmatch(r"[A-Za-z0-9_-]+", address.stream)


def test_an_address_names_servers_stream_and_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each server gets the scheme, and a user without a password the environment's; neither is shown."""
    monkeypatch.setenv("TRAINWIRE_NATS_PASSWORD", "hidden")
    address = parse_address("nats://ann@a:4222,b,bob:pw@[::1]:4/digits-1?stream=own")
    assert address.servers == ("nats://ann:hidden@a:4222", "nats://b", "nats://bob:pw@[::1]:4")
    assert (address.stream, address.run) == ("own", "digits-1")
    assert str(address) == "nats://a:4222,b,[::1]:4/digits-1"
    assert parse_servers("tls://a:1,tls://b:2") == ("tls://a:1", "tls://b:2")
