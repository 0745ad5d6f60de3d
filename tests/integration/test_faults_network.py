"""Cut, delayed and lost connections and misbehaving clients, while a trainer records."""

from __future__ import annotations

import asyncio
import random
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import msgpack
import pytest
import zmq
import zmq.asyncio
from chaos.proxy import Proxy
from support.run_reader import read_events, wait_until
from support.trainer_process import Trainer

from trainwire_protocol.journal.verification import verify_run
from trainwire_protocol.subscription.subscription import Subscription
from trainwire_protocol.subscription.target import Target, resolve_target
from trainwire_protocol.transport import auth
from trainwire_protocol.transport.auth import ClientKeys, KeyPair, secure_client
from trainwire_protocol.transport.connection import Connection, connection_path, write_connection
from trainwire_protocol.transport.requester import Requester


@pytest.fixture
def trainer(tmp_path: Path) -> Iterator[Trainer]:
    trainer = Trainer(tmp_path / "run")
    yield trainer
    trainer.kill()


def check_whole(trainer: Trainer) -> None:
    """End the run, and check that its journal is complete."""
    last = trainer.end()
    losses = [event.step for event in read_events(trainer.folder) if event.name == "train/loss"]
    assert losses == list(range(1, last + 1))
    assert all(report.is_whole and report.ending for report in verify_run(trainer.folder))


def disturb(proxies: list[Proxy], rng: random.Random) -> None:
    """Cut, delay, drop and refuse connections, one after the other."""
    pause = threading.Event()
    for kind in ("cut", "delay", "drop", "refuse") * 2:
        targets = [proxy.target for proxy in proxies]
        for proxy in proxies:
            proxy.is_cut, proxy.delay = kind == "cut", 0.01 if kind == "delay" else 0.0
            proxy.target = None if kind == "refuse" else proxy.target
            if kind in ("drop", "refuse"):
                proxy.drop()
        pause.wait(rng.uniform(0.1, 0.4))
        for proxy, target in zip(proxies, targets, strict=True):
            proxy.is_cut, proxy.delay, proxy.target = False, 0.0, target
        pause.wait(0.1)


@pytest.mark.timeout(180)
@pytest.mark.parametrize("seed", [1])
def test_a_connection_is_cut_delayed_and_split(tmp_path: Path, seed: int) -> None:
    """A reader that has only a faulty TCP connection receives every event once and in order."""
    trainer = Trainer(tmp_path / "run", "tcp://127.0.0.1:0")
    proxies = [Proxy(seed), Proxy(seed + 1)]
    endpoints = (trainer.connection.publish, trainer.connection.request)
    for proxy, endpoint in zip(proxies, endpoints, strict=True):
        proxy.target = ("127.0.0.1", int(endpoint.rpartition(":")[2]))
    publish, request = (f"tcp://127.0.0.1:{proxy.port}" for proxy in proxies)
    write_connection(tmp_path / "far.json", replace(trainer.connection, publish=publish, request=request))
    steps: dict[str, list[int]] = {"train/loss": [], "image": []}
    gaps = []

    async def read() -> None:
        target, channels = resolve_target(str(tmp_path / "far.json")), ("event", "media")
        async with Subscription(target, channels=channels, name="far") as subscription:
            async for batch in subscription:
                for event in batch.events:
                    if event.name in steps:
                        steps[event.name].append(event.step)
                if batch.header.last or len(steps["image"]) % 10 == 0:
                    await subscription.acknowledge(batch.cursor)
            gaps.append(subscription.gaps)

    reader = threading.Thread(target=lambda: asyncio.run(read()))
    reader.start()
    try:
        wait_until(lambda: steps["train/loss"])
        disturb(proxies, random.Random(seed))
        last = trainer.end()
        reader.join(30)
    finally:
        trainer.kill()
        for proxy in proxies:
            proxy.close()
    assert gaps == [0]
    assert steps == {"train/loss": list(range(1, last + 1)), "image": list(range(100, last + 1, 100))}


def test_connections_are_lost_silently(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A reader whose open connections no longer carry data establishes new ones, and misses nothing."""
    monkeypatch.setattr(auth, "HEARTBEAT_INTERVAL_SECONDS", 0.2)
    monkeypatch.setattr(auth, "HEARTBEAT_TIMEOUT_SECONDS", 0.6)
    trainer = Trainer(tmp_path / "run", "tcp://127.0.0.1:0")
    proxies, connection = [Proxy(1), Proxy(2)], trainer.connection
    for field, proxy in zip(("publish", "request"), proxies, strict=True):
        proxy.target = ("127.0.0.1", int(getattr(connection, field).rpartition(":")[2]))
        connection = replace(connection, **{field: f"tcp://127.0.0.1:{proxy.port}"})
    write_connection(tmp_path / "far.json", connection)
    steps: list[int] = []

    async def read() -> None:
        async with Subscription(resolve_target(str(tmp_path / "far.json")), name="far") as subscription:
            async for batch in subscription:
                steps.extend(event.step for event in batch.events if event.name == "train/loss")
                if batch.header.last or len(steps) % 100 == 0:
                    await subscription.acknowledge(batch.cursor)

    reader = threading.Thread(target=lambda: asyncio.run(read()))
    reader.start()
    try:
        wait_until(lambda: len(steps) > 100)
        for proxy in proxies:
            proxy.lost_connections = proxy.accepted
        recorded = read_events(trainer.folder)[-1].step
        wait_until(lambda: steps[-1] > recorded)
        wait_until(lambda: all(proxy.accepted > proxy.lost_connections for proxy in proxies))
        last = trainer.end()
        reader.join(30)
    finally:
        trainer.kill()
        for proxy in proxies:
            proxy.close()
    assert steps == list(range(1, last + 1))


def ask(dealer: zmq.Socket[bytes], request: dict[str, object]) -> set[object]:
    """Send a request, and return the ids of all replies that have come; the trainer drops those that cannot be sent."""
    dealer.send(msgpack.packb(request))
    ids = set()
    while dealer.poll(200):
        ids.add(msgpack.unpackb(dealer.recv_multipart()[0]).get("id"))
    return ids


def test_invalid_requests_are_answered_or_dropped(trainer: Trainer) -> None:
    """Invalid requests and random bytes do no harm: the trainer still replies, and its run is complete."""
    rng = random.Random(1)
    requests = [b"", b"\x00" * 60_000, msgpack.packb([]), msgpack.packb({"verb": "fetch"}), msgpack.packb({"verb": 1})]
    with zmq.Context() as context, context.socket(zmq.DEALER) as dealer:
        dealer.linger = 0
        dealer.connect(trainer.connection.request)
        for number in range(500):
            dealer.send_multipart([rng.choice(requests), *[rng.randbytes(50)] * (number % 4)])
            dealer.send(rng.randbytes(200))
        wait_until(lambda: 7 in ask(dealer, {"verb": "hello", "id": 7}))
    for endpoint in (trainer.connection.request, trainer.connection.publish):
        for _ in range(50):
            with socket.socket(socket.AF_UNIX) as raw:
                raw.connect(endpoint.removeprefix("ipc://"))
                raw.send(rng.randbytes(100))
    check_whole(trainer)


def test_clients_that_never_read(trainer: Trainer) -> None:
    """The trainer's memory is bounded although a client reads none of its replies, and a subscriber nothing."""
    before = trainer.resident_bytes
    request = {"verb": "fetch", "attempt": 0, "after": -1, "channels": ["event", "media"], "credit": 4 << 20}
    with zmq.Context() as context, context.socket(zmq.DEALER) as dealer, context.socket(zmq.SUB) as subscriber:
        for client, endpoint in ((dealer, trainer.connection.request), (subscriber, trainer.connection.publish)):
            client.linger = 0
            client.rcvhwm = 1
            client.connect(endpoint)
        subscriber.subscribe(b"")
        with suppress(zmq.Again):
            for number in range(2000):
                dealer.send(msgpack.packb({**request, "id": number}), zmq.DONTWAIT)
        step = read_events(trainer.folder)[-1].step
        wait_until(lambda: read_events(trainer.folder)[-1].step > step + 1000)
        grown = trainer.resident_bytes - before
    print(f"the trainer has grown by {grown >> 20} MiB")
    assert grown < 128 << 20
    check_whole(trainer)


def test_a_thousand_connections_are_opened_and_closed(trainer: Trainer) -> None:
    """Closed connections leave no open files and no memory behind in the trainer."""
    before, files = trainer.resident_bytes, open_files(trainer)
    address = trainer.connection.request.removeprefix("ipc://")
    for _ in range(1000):
        with socket.socket(socket.AF_UNIX) as raw:
            raw.connect(address)
    wait_until(lambda: open_files(trainer) <= files + 5)
    assert trainer.resident_bytes - before < 64 << 20
    check_whole(trainer)


def open_files(trainer: Trainer) -> int:
    return sum(1 for _ in Path(f"/proc/{trainer.process.pid}/fd").iterdir())


ODD_BYTES = (
    b"",
    b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
    b"*1\r\n$4\r\nPING\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(200),
    b"SSH-2.0-OpenSSH_9.2\r\n",
    b"\xff\x00\x00\x00\x00\x00\x00\x00\x01\x7f\x03\x01CURVE" + bytes(47),
)
"""What port scanners and clients of other protocols send; the last is ZeroMQ's greeting without a handshake."""


def send_and_close(address: tuple[str, int], data: bytes) -> None:
    """Connect, send some bytes, and close the connection."""
    with suppress(OSError), socket.create_connection(address, 5) as connection:
        connection.sendall(data)


@contextmanager
def bad_clients(connection: Connection) -> Iterator[None]:
    """Connect clients to both sockets: with a wrong key, an unlisted key, no key, and valid ones that never read."""
    keys = connection.keys
    assert keys
    unlisted, other = KeyPair.make(), KeyPair.make()
    bad = (ClientKeys(other.public, keys.client), ClientKeys(keys.server, unlisted), None, keys)
    with zmq.Context() as context, ExitStack() as sockets:
        for kind, endpoint in ((zmq.SUB, connection.publish), (zmq.DEALER, connection.request)):
            for client_keys in bad:
                client = sockets.enter_context(context.socket(kind))
                client.linger, client.rcvhwm = 0, 1
                secure_client(client, client_keys)
                client.connect(endpoint)
                if kind == zmq.SUB:
                    client.subscribe(b"")
                    continue
                with suppress(zmq.Again):
                    for number in range(100):
                        request = {"verb": "fetch", "attempt": 0, "after": -1, "channels": ["event"], "credit": 4 << 20}
                        client.send(msgpack.packb({**request, "id": number}), zmq.DONTWAIT)
        yield


def test_bad_clients_over_tcp(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Clients without a valid key are counted and reported; neither they nor clients that never read harm others."""
    started = time.monotonic()
    trainer = Trainer(tmp_path / "run", "tcp://127.0.0.1:0")
    connection = trainer.connection
    write_connection(tmp_path / "far.json", connection)
    target, steps, gaps = resolve_target(str(tmp_path / "far.json")), [], []

    async def read() -> None:
        async with Subscription(target, name="far") as subscription:
            async for batch in subscription:
                steps.extend(event.step for event in batch.events if event.name == "train/loss")
                if batch.header.last or len(steps) % 100 == 0:
                    await subscription.acknowledge(batch.cursor)
            gaps.append(subscription.gaps)

    async def refused() -> int:
        context = zmq.asyncio.Context()
        requester = Requester(context, connection.request, connection.keys)
        try:
            return int((await requester.hello())["refused"])
        finally:
            await requester.close()
            context.term()

    reader = threading.Thread(target=lambda: asyncio.run(read()))
    reader.start()
    try:
        with bad_clients(connection):
            for endpoint in (connection.publish, connection.request):
                host, port = endpoint.removeprefix("tcp://").split(":")
                for data in ODD_BYTES * 10:
                    send_and_close((host, int(port)), data)
            step = read_events(trainer.folder)[-1].step
            wait_until(lambda: read_events(trainer.folder)[-1].step > step + 500 and steps[-1] > step)
        wait_until(lambda: asyncio.run(refused()) >= 2 * 10 * len(ODD_BYTES))
        last = trainer.end()
        reader.join(30)
    finally:
        trainer.kill()
    assert (steps, gaps) == (list(range(1, last + 1)), [0])
    assert all(report.is_whole and report.ending for report in verify_run(trainer.folder))
    warnings = [line for line in capfd.readouterr().err.splitlines() if "refused a client" in line]
    assert 1 <= len(warnings) <= 1 + (time.monotonic() - started) / auth.WARNING_INTERVAL_SECONDS
    assert not any(key in line for line in warnings for key in (connection.keys.server, *connection.keys.client))


def test_without_a_connection_file_a_live_run_is_read_from_its_folder(trainer: Trainer) -> None:
    """A reader without a connection follows a live run to its end by the files in its folder."""
    connection_path(trainer.folder, 0).unlink()
    steps = []

    async def read() -> None:
        async with Subscription(Target(trainer.folder)) as subscription:
            async for batch in subscription:
                steps.extend(event.step for event in batch.events if event.name == "train/loss")

    reader = threading.Thread(target=lambda: asyncio.run(read()))
    reader.start()
    wait_until(lambda: len(steps) > 100)
    last = trainer.end()
    reader.join(20)
    assert steps == list(range(1, last + 1))
