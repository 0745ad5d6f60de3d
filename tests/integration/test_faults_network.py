"""Connections that are cut, delayed and split, and clients that mean no good, while a real bus records."""

from __future__ import annotations

import asyncio
import random
import socket
import threading
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import msgpack
import pytest
import zmq
from chaos.proxy import Proxy
from reading import read_events, wait_until
from trainer_process import Trainer

from trainwire_protocol.client import Subscription
from trainwire_protocol.connection import connection_path, write_connection
from trainwire_protocol.target import Target, resolve_target
from trainwire_protocol.verification import verify_run


@pytest.fixture
def trainer(tmp_path: Path) -> Iterator[Trainer]:
    trainer = Trainer(tmp_path / "run")
    yield trainer
    trainer.kill()


def check_whole(trainer: Trainer) -> None:
    """The run ends in order, and its record has every step."""
    last = trainer.end()
    losses = [event.step for event in read_events(trainer.folder) if event.name == "train/loss"]
    assert losses == list(range(1, last + 1))
    assert all(report.is_whole and report.ending for report in verify_run(trainer.folder))


def disturb(proxies: list[Proxy], chance: random.Random) -> None:
    """Cut, delay and drop for a while; reading and writing in small pieces goes on all along."""
    pause = threading.Event()
    for kind in ("cut", "delay", "drop", "refuse") * 2:
        targets = [proxy.target for proxy in proxies]
        for proxy in proxies:
            proxy.is_cut, proxy.delay = kind == "cut", 0.01 if kind == "delay" else 0.0
            proxy.target = None if kind == "refuse" else proxy.target
            if kind in ("drop", "refuse"):
                proxy.drop()
        pause.wait(chance.uniform(0.1, 0.4))
        for proxy, target in zip(proxies, targets, strict=True):
            proxy.is_cut, proxy.delay, proxy.target = False, 0.0, target
        pause.wait(0.1)


@pytest.mark.timeout(120)
@pytest.mark.parametrize("seed", [1])
def test_a_connection_that_is_cut_delayed_and_split(tmp_path: Path, seed: int) -> None:
    """A reader that has nothing but TCP gets every event once and in order through a connection of the worst kind."""
    trainer = Trainer(tmp_path / "run", "tcp://127.0.0.1:0")
    proxies = [Proxy(seed), Proxy(seed + 1)]
    endpoints = (trainer.connection.publish, trainer.connection.request)
    for proxy, endpoint in zip(proxies, endpoints, strict=True):
        proxy.target = ("127.0.0.1", int(endpoint.rpartition(":")[2]))
    publish, request = (f"tcp://127.0.0.1:{proxy.port}" for proxy in proxies)
    write_connection(tmp_path / "far.json", replace(trainer.connection, publish=publish, request=request))
    steps: dict[str, list[int]] = {"train/loss": [], "image": []}
    ended = []

    async def read() -> None:
        target, channels = resolve_target(str(tmp_path / "far.json")), ("event", "media")
        async with Subscription(target, channels=channels, name="far") as subscription:
            async for batch in subscription:
                for event in batch.events:
                    if event.name in steps:
                        steps[event.name].append(event.step)
                if batch.header.last or len(steps["image"]) % 10 == 0:
                    await subscription.acknowledge(batch.cursor)
            ended.append(subscription.gaps)

    reading = threading.Thread(target=lambda: asyncio.run(read()))
    reading.start()
    try:
        wait_until(lambda: steps["train/loss"])
        disturb(proxies, random.Random(seed))
        last = trainer.end()
        reading.join(30)
    finally:
        trainer.kill()
        for proxy in proxies:
            proxy.close()
    assert ended == [0]
    assert steps == {"train/loss": list(range(1, last + 1)), "image": list(range(100, last + 1, 100))}


def test_garbage_at_the_door(trainer: Trainer) -> None:
    """Requests that are rubbish, raw bytes and half of a handshake are answered or dropped; the run is whole."""
    chance = random.Random(1)
    requests = [b"", b"\x00" * 60_000, msgpack.packb([]), msgpack.packb({"verb": "fetch"}), msgpack.packb({"verb": 1})]
    with zmq.Context() as context, context.socket(zmq.DEALER) as dealer:
        dealer.linger = 0
        dealer.connect(trainer.connection.request)
        for number in range(500):
            dealer.send_multipart([chance.choice(requests), *[chance.randbytes(50)] * (number % 4)])
            dealer.send(chance.randbytes(200))
        dealer.send(msgpack.packb({"verb": "hello", "id": 7}))
        while msgpack.unpackb(dealer.recv_multipart()[0]).get("id") != 7:
            pass
    for endpoint in (trainer.connection.request, trainer.connection.publish):
        for _ in range(50):
            with socket.socket(socket.AF_UNIX) as raw:
                raw.connect(endpoint.removeprefix("ipc://"))
                raw.send(chance.randbytes(100))
    check_whole(trainer)


def test_clients_that_never_read(trainer: Trainer) -> None:
    """One that asks for everything and reads no answer, and a subscriber that reads nothing, cost a bounded memory."""
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


def test_a_thousand_connections_opened_and_dropped(trainer: Trainer) -> None:
    """They leave neither memory nor open files behind in the trainer."""
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


def test_a_reader_of_a_run_that_is_far_away_reads_on_by_files(trainer: Trainer) -> None:
    """Where a connection leads nowhere, the run's folder alone is enough to follow a live run to its end."""
    connection_path(trainer.folder, 0).unlink()
    steps = []

    async def read() -> None:
        async with Subscription(Target(trainer.folder)) as subscription:
            async for batch in subscription:
                steps.extend(event.step for event in batch.events if event.name == "train/loss")

    reading = threading.Thread(target=lambda: asyncio.run(read()))
    reading.start()
    wait_until(lambda: len(steps) > 100)
    last = trainer.end()
    reading.join(20)
    assert steps == list(range(1, last + 1))
