"""The publisher's sockets: they serve well-behaved clients, and survive the others."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgpack
import pytest
import zmq
import zmq.asyncio
from support.publisher import Publisher, run
from support.recorder import Recorder, scalar

from trainwire_protocol.errors import RequestError
from trainwire_protocol.events import Event
from trainwire_protocol.journal.run_folder import begin_attempt
from trainwire_protocol.subscription.subscription import Subscription
from trainwire_protocol.subscription.target import Target
from trainwire_protocol.transport.auth import ClientKeys, KeyPair, ServerKeys, secure_client
from trainwire_protocol.transport.requester import Requester
from trainwire_protocol.transport.server import (
    HIGH_WATER_MARK,
    MAX_PUBLISHED_BYTES,
    MAX_REQUEST_BYTES,
    MAX_WAITING_REPLIES,
    Server,
)
from trainwire_protocol.wire import HEARTBEAT, Cursor, decode_batch, decode_header, topic, unpack_map


@contextlib.contextmanager
def a_socket(kind: int, endpoint: str, keys: ClientKeys | None = None) -> Iterator[zmq.Socket[bytes]]:
    """Yield a plain socket that is connected to an endpoint."""
    with zmq.Context() as context, context.socket(kind) as client:
        client.linger = 0
        secure_client(client, keys)
        if kind == zmq.SUB:
            client.subscribe(b"")
        client.connect(endpoint)
        yield client


def open_files() -> int:
    """Return how many files and sockets this process has open."""
    return len([*Path("/proc/self/fd").iterdir()])


async def receive(client: zmq.Socket[bytes], seconds: float = 10.0) -> list[bytes]:
    """Return the next message without blocking the loop."""
    deadline = time.monotonic() + seconds
    while not client.poll(0):
        assert time.monotonic() < deadline, "no message came"
        await asyncio.sleep(0.005)
    return client.recv_multipart()


async def subscribed(publisher: Publisher, client: zmq.Socket[bytes]) -> None:
    """Wait until published messages arrive."""
    while not client.poll(0):
        publisher.server.beat()
        await asyncio.sleep(0.01)


async def ask(client: zmq.Socket[bytes], *frames: bytes) -> dict[str, Any]:
    """Send a request and return the head of the reply."""
    client.send_multipart(frames)
    return unpack_map((await receive(client))[0])


def test_heartbeat_contains_heads_and_status(tmp_path: Path) -> None:
    """A heartbeat has no events; `before` is the last seq of each channel, and the body contains the status."""

    async def main() -> None:
        async with Publisher(tmp_path) as publisher:
            publisher.scalars(3)
            publisher.scalars(2, "media")
            with a_socket(zmq.SUB, publisher.server.publish_endpoint) as client:
                sent_to, header_bytes, body = await receive(client)
            header = decode_header(header_bytes)
            assert sent_to == topic(HEARTBEAT, publisher.attempt.run, 0)
            assert (header.channel, header.count, header.seq) == (HEARTBEAT, 0, 5)
            assert header.before == {"event": 2, "media": 4}
            fields = unpack_map(body)
            assert fields["state"] == "running"
            assert abs(fields["walltime"] - time.time()) < 60

    run(main())


def test_the_end_is_reported_by_heartbeats_and_hello(tmp_path: Path) -> None:
    """Once the last batch was sent, heartbeats have `last` and `hello` has `over`; before that, both are absent."""

    async def main() -> None:
        async with Publisher(tmp_path) as publisher:
            publisher.scalars(3)
            with (
                a_socket(zmq.SUB, publisher.server.publish_endpoint) as subscriber,
                a_socket(zmq.DEALER, publisher.server.request_endpoint) as client,
            ):
                assert "last" not in unpack_map((await receive(subscriber))[1])
                assert "over" not in await ask(client, msgpack.packb({"verb": "hello"}))
                publisher.end()
                while not (header := decode_header((await receive(subscriber))[1])).last or header.count:
                    pass
                assert (header.channel, header.before) == (HEARTBEAT, {"event": 3})
                assert (await ask(client, msgpack.packb({"verb": "hello"})))["over"] is True

    run(main())


def test_batches_up_to_a_size_are_published(tmp_path: Path) -> None:
    """A batch is published with the journal's bytes; one above `MAX_PUBLISHED_BYTES` only advances the head."""

    async def main() -> None:
        async with Publisher(tmp_path) as publisher:
            with a_socket(zmq.SUB, publisher.server.publish_endpoint) as client:
                await subscribed(publisher, client)
                image = Event("sample", {"data": bytes(MAX_PUBLISHED_BYTES), "format": "png"}, "image", 1.0, 1)
                publisher.record([image], "media")
                small = publisher.scalars(2)
                while (frames := await receive(client))[0] == topic(HEARTBEAT, publisher.attempt.run, 0):
                    pass
                assert frames == [small.topic, small.header_bytes, small.body]
                assert decode_batch(*frames[1:]).header.before == {"media": 0}
                assert publisher.server.heads == {"media": 0, "event": 2}

    run(main())


def test_unjournaled_batch_does_not_advance_the_head(tmp_path: Path) -> None:
    """An unjournaled batch is published, but the heads do not include it."""

    async def main() -> None:
        async with Publisher(tmp_path) as publisher:
            with a_socket(zmq.SUB, publisher.server.publish_endpoint) as client:
                await subscribed(publisher, client)
                publisher.server.publish(publisher.recorder.record([scalar(1)], unjournaled=True))
                while (frames := await receive(client))[0].startswith(topic(HEARTBEAT)):
                    pass
                assert decode_header(frames[1]).unjournaled
                assert publisher.server.heads == {}

    run(main())


def test_invalid_requests_get_errors(tmp_path: Path) -> None:
    """Each invalid request gets an error, and a valid request after them is answered."""
    garbage = [[b""], [b"\xc1"], [os.urandom(1000)], [b"a", b"b", b"c"], [b"", b""], [msgpack.packb({"verb": 1})]]

    async def main() -> None:
        async with Publisher(tmp_path) as publisher:
            with a_socket(zmq.DEALER, publisher.server.request_endpoint) as client:
                for frames in garbage:
                    assert "error" in await ask(client, *frames)
                assert (await ask(client, msgpack.packb({"verb": "hello"})))["run"] == publisher.attempt.run

    run(main())


def test_too_large_request_disconnects_only_its_client(tmp_path: Path) -> None:
    """A client that sends more than `MAX_REQUEST_BYTES` is disconnected; others are served."""

    async def main() -> None:
        async with Publisher(tmp_path) as publisher:
            endpoint = publisher.server.request_endpoint
            with a_socket(zmq.DEALER, endpoint) as greedy, a_socket(zmq.DEALER, endpoint) as client:
                greedy.send(bytes(MAX_REQUEST_BYTES + 1))
                assert "run" in await ask(client, msgpack.packb({"verb": "hello"}))
                assert not greedy.poll(100)

    run(main())


def test_other_protocols_do_no_harm(tmp_path: Path) -> None:
    """A connection that does not use ZeroMQ is dropped, and the server continues."""

    async def main() -> None:
        async with Publisher(tmp_path) as publisher:
            for endpoint in (publisher.server.request_endpoint, publisher.server.publish_endpoint):
                with socket.socket(socket.AF_UNIX) as raw:
                    raw.connect(endpoint.removeprefix("ipc://"))
                    with contextlib.suppress(OSError):
                        raw.sendall(b"GET / HTTP/1.1\r\n\r\n" * 100)
            with a_socket(zmq.DEALER, publisher.server.request_endpoint) as client:
                assert "run" in await ask(client, msgpack.packb({"verb": "hello"}))

    run(main())


def test_a_thousand_short_connections_leave_no_open_files(tmp_path: Path) -> None:
    """After a thousand connections were opened and closed, the server answers and has no more files open."""

    async def main() -> None:
        async with Publisher(tmp_path) as publisher:
            path = publisher.server.request_endpoint.removeprefix("ipc://")
            before = open_files()
            for number in range(1000):
                with socket.socket(socket.AF_UNIX) as raw:
                    raw.connect(path)
                if number % 20 == 19:
                    await asyncio.sleep(0)
            with a_socket(zmq.DEALER, publisher.server.request_endpoint) as client:
                assert "run" in await ask(client, msgpack.packb({"verb": "hello"}))
            deadline = time.monotonic() + 10
            while open_files() > before + 10 and time.monotonic() < deadline:
                await asyncio.sleep(0.01)
            assert open_files() <= before + 10

    run(main())


def test_replies_to_a_client_that_never_reads_are_dropped(tmp_path: Path) -> None:
    """Replies to a client that never reads are dropped after a few, and others are answered meanwhile."""

    async def main() -> None:
        async with Publisher(tmp_path) as publisher:
            publisher.record([Event("a", {"data": bytes(1 << 20)}, "hparams", 1.0, 1)])
            fetch = {"verb": "fetch", "attempt": 0, "after": -1, "channels": ["event"], "credit": 1 << 20}
            endpoint = publisher.server.request_endpoint
            with a_socket(zmq.DEALER, endpoint) as silent, a_socket(zmq.DEALER, endpoint) as client:
                silent.rcvhwm = 1
                for _ in range(60):
                    silent.send(msgpack.packb(fetch))
                publisher.server.responder._rest_until = 0.0
                assert "run" in await ask(client, msgpack.packb({"verb": "hello"}))
            assert publisher.server._router.get(zmq.SNDHWM) == MAX_WAITING_REPLIES

    run(main())


def test_slow_request_does_not_delay_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While a `fetch` waits for a hung disk, `hello` is answered, and closing is not delayed."""
    released = threading.Event()

    async def main() -> None:
        async with Publisher(tmp_path) as publisher:
            monkeypatch.setattr(publisher.server.responder, "_fetch", lambda request: released.wait(20) or ({}, []))
            with a_socket(zmq.DEALER, publisher.server.request_endpoint) as client:
                client.send(msgpack.packb({"verb": "fetch"}))
                assert "run" in await ask(client, msgpack.packb({"verb": "hello"}))

    begun = time.monotonic()
    try:
        run(main())
        assert time.monotonic() - begun < 10
    finally:
        released.set()


def test_failing_description_is_logged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """If the publisher's description raises, the error is logged, and other requests are answered."""

    async def main() -> None:
        async with Publisher(tmp_path) as publisher:
            monkeypatch.setattr(publisher.server.responder, "describe", lambda: 1 / 0)
            with a_socket(zmq.DEALER, publisher.server.request_endpoint) as client:
                client.send(msgpack.packb({"verb": "hello"}))
                ack = {"verb": "ack", "sink": "a", "attempt": 0, "seq": 1, "id": 5}
                assert await ask(client, msgpack.packb(ack)) == {"id": 5}
                while "could not be answered" not in caplog.text:
                    await asyncio.sleep(0.01)

    run(main())


def test_publishing_does_not_wait_for_subscribers(tmp_path: Path) -> None:
    """Publishing beyond the high-water mark of a subscriber that does not read returns at once, and drops messages."""

    async def main() -> None:
        async with Publisher(tmp_path, high_water_mark=10) as publisher:
            with a_socket(zmq.SUB, publisher.server.publish_endpoint) as client:
                await subscribed(publisher, client)
                event = scalar(0)._replace(type="text", value="a" * 100_000)
                batch = Recorder(publisher.attempt.run).record([event])
                for _ in range(500):
                    publisher.server.publish(batch)
                client.rcvtimeo = 500
                received = 0
                with contextlib.suppress(zmq.Again):
                    while client.recv_multipart():
                        received += 1
                assert received < 500

    run(main())


def test_wait_for_sinks(tmp_path: Path) -> None:
    """Sinks that do not acknowledge the end in time are returned; expired acknowledgements are ignored."""

    async def main() -> None:
        async with Publisher(tmp_path) as publisher:
            server = publisher.server
            assert await server.wait_for_sinks(5, timeout=10) == []
            context = zmq.asyncio.Context()
            requester = Requester(context, server.request_endpoint)
            for name, seq in (("fast", 5), ("slow", 3), ("dead", 1)):
                await requester.request("ack", sink=name, attempt=0, seq=seq)
            server.responder.sinks["dead"].expires = 0.0
            assert await server.wait_for_sinks(5, timeout=0.05) == ["slow"]
            waiting = asyncio.ensure_future(server.wait_for_sinks(5, timeout=10))
            await requester.request("ack", sink="slow", attempt=0, seq=5)
            assert await waiting == []
            assert server.responder.sinks["slow"].cursor == Cursor(0, 5)
            await requester.close()
            context.term()

    run(main())


def test_refused_request_raises_the_publishers_reason(tmp_path: Path) -> None:
    """An error in a reply raises RequestError with the publisher's reason."""

    async def main() -> None:
        async with Publisher(tmp_path) as publisher:
            context = zmq.asyncio.Context()
            requester = Requester(context, publisher.server.request_endpoint)
            with pytest.raises(RequestError, match="the publisher refused explode: the verb is 'explode'"):
                await requester.request("explode")
            await requester.close()
            context.term()

    run(main())


def test_failed_bind_leaves_nothing_open(tmp_path: Path) -> None:
    """If a socket cannot be bound, the system's error is raised, and nothing stays open."""

    async def main() -> None:
        attempt = begin_attempt(tmp_path, 0, "session")
        with pytest.raises(zmq.ZMQError):
            Server(attempt, f"ipc://{tmp_path}/missing/pub", f"ipc://{tmp_path}/missing/req")

    run(main())


def test_client_without_an_allowed_key_gets_no_reply(tmp_path: Path) -> None:
    """Over TCP a client without keys or with an unlisted key gets no reply."""
    server, client, stranger = KeyPair.make(), KeyPair.make(), KeyPair.make()

    async def main() -> None:
        async with Publisher(tmp_path, keys=ServerKeys(server, frozenset({client.public}))) as publisher:
            endpoint = publisher.server.request_endpoint
            hello = msgpack.packb({"verb": "hello"})
            with (
                a_socket(zmq.DEALER, endpoint) as open_one,
                a_socket(zmq.DEALER, endpoint, ClientKeys(server.public, stranger)) as wrong,
                a_socket(zmq.DEALER, endpoint, ClientKeys(server.public, client)) as right,
            ):
                for refused in (open_one, wrong):
                    with contextlib.suppress(zmq.Again):  # the connection may be closed already
                        refused.send(hello, zmq.NOBLOCK)
                assert "run" in await ask(right, hello)
                assert not open_one.poll(100)
                assert not wrong.poll(100)

    run(main())


def test_default_queue_of_a_subscriber_is_bounded() -> None:
    """The queue for one subscriber holds at most 256 MiB by default."""
    assert HIGH_WATER_MARK * MAX_PUBLISHED_BYTES <= 256 << 20


def test_flooded_request_socket_does_not_affect_a_subscription(tmp_path: Path) -> None:
    """A subscription gets every event while another client floods the request socket."""

    async def main() -> None:
        async with Publisher(tmp_path) as publisher:
            with a_socket(zmq.DEALER, publisher.server.request_endpoint) as rogue:
                for _ in range(500):
                    rogue.send(os.urandom(50), zmq.NOBLOCK)
                async with Subscription(Target(tmp_path), use_journal=False) as subscription:
                    publisher.scalars(3)
                    publisher.end()
                    assert [len(batch.events) async for batch in subscription] == [3, 1]

    run(main())
