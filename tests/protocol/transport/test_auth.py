"""CURVE keys, and authentication over TCP with real sockets: which clients are accepted, how others are refused."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import logging
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgpack
import pytest
import zmq.asyncio
from support.publisher import Publisher, run
from support.run_reader import until

from trainwire_protocol.errors import RequestError
from trainwire_protocol.subscription.subscription import Subscription
from trainwire_protocol.subscription.target import Target
from trainwire_protocol.transport.auth import ClientKeys, KeyPair, ServerKeys, is_key
from trainwire_protocol.transport.requester import Requester

SERVER, FRIEND, READER, STRANGER, OTHER = (KeyPair.make() for _ in range(5))
KEYS = ServerKeys(SERVER, frozenset({FRIEND.public, READER.public}), read_only=frozenset({READER.public}))


def test_repr_hides_secret_keys() -> None:
    """The repr and str of key pairs and server keys contain no secret key."""
    pair = KeyPair.make()
    for shown in (repr(pair), str(pair), repr(ServerKeys(pair, frozenset()))):
        assert pair.secret not in shown
        assert pair.public in shown


def test_generated_pairs_differ() -> None:
    """Two generated pairs share no key."""
    assert not {*KeyPair.make()} & {*KeyPair.make()}


def test_is_key() -> None:
    """Only strings of 40 characters in Z85 are keys."""
    assert is_key(KeyPair.make().public)
    assert not any(map(is_key, ["", "a" * 39, "a" * 41, "~" * 40, None, 5]))


def address(publisher: Publisher) -> tuple[str, int]:
    parts = urlsplit(publisher.server.request_endpoint)
    assert parts.hostname
    assert parts.port
    return parts.hostname, parts.port


@contextlib.asynccontextmanager
async def pending_hello(publisher: Publisher, keys: ClientKeys | None) -> AsyncIterator[asyncio.Task[dict[str, Any]]]:
    """Send `hello` with these keys, and yield the task that waits for the reply."""
    context = zmq.asyncio.Context()
    requester = Requester(context, publisher.server.request_endpoint, keys)
    hello = asyncio.create_task(requester.hello(timeout=60))
    try:
        yield hello
    finally:
        hello.cancel()
        await requester.close()
        context.term()


async def is_answered(publisher: Publisher, keys: ClientKeys) -> bool:
    """Return whether a client with these keys gets a reply."""
    async with pending_hello(publisher, keys) as hello:
        return (await hello)["run"] == publisher.attempt.run


async def is_refused(publisher: Publisher, keys: ClientKeys | None) -> bool:
    """Return whether a client with these keys is counted as refused before it gets a reply."""
    before = publisher.server.refused
    async with pending_hello(publisher, keys) as hello:
        await until(lambda: hello.done() or publisher.server.refused > before)
        return not hello.done()


async def connect_with_wrong_server_key(publisher: Publisher) -> None:
    assert await is_refused(publisher, ClientKeys(OTHER.public, FRIEND))


async def connect_with_unlisted_key(publisher: Publisher) -> None:
    assert await is_refused(publisher, ClientKeys(SERVER.public, STRANGER))


async def connect_without_keys(publisher: Publisher) -> None:
    assert await is_refused(publisher, None)


async def open_and_close(publisher: Publisher) -> None:
    socket.create_connection(address(publisher)).close()


async def send_http_request(publisher: Publisher) -> None:
    def get() -> None:
        connection = http.client.HTTPConnection(*address(publisher), timeout=5)
        with contextlib.suppress(OSError, http.client.HTTPException):
            connection.request("GET", "/")
            connection.getresponse()
        connection.close()

    await asyncio.to_thread(get)


@pytest.mark.parametrize(
    ("connect", "reason"),
    [
        (connect_with_wrong_server_key, "has the wrong public key for this publisher"),
        (connect_with_unlisted_key, "has a key that is not on the list"),
        (connect_without_keys, "sent no key"),
        (open_and_close, "sent no key"),
        (send_http_request, "uses another protocol"),
    ],
)
def test_refused_client_is_counted_and_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, connect: Callable[[Publisher], Awaitable[None]], reason: str
) -> None:
    """A refused client is counted and logged in one line without keys; other clients are not affected."""

    async def main() -> None:
        async with Publisher(tmp_path, keys=KEYS) as publisher:
            await connect(publisher)
            await connect(publisher)
            while publisher.server.refused < 2:
                await asyncio.sleep(0.01)
            assert await is_answered(publisher, ClientKeys(SERVER.public, FRIEND))

    with caplog.at_level(logging.DEBUG):
        run(main())
    lines = [record.getMessage() for record in caplog.records if record.name.startswith("trainwire")]
    assert len(lines) == 1
    assert reason in lines[0]
    assert not any(key in caplog.text for pair in (SERVER, FRIEND, STRANGER, OTHER) for key in pair)


def test_client_with_unlisted_key_gets_an_error(tmp_path: Path) -> None:
    """A client whose key is not on the list raises RequestError instead of waiting forever."""

    async def main() -> None:
        async with Publisher(tmp_path, keys=KEYS) as publisher:
            keys = ClientKeys(SERVER.public, STRANGER)
            connection = replace(publisher.connection, keys=keys)
            target = Target(folder=None, request=connection.request, connection=connection)
            with pytest.raises(RequestError, match="not on its list"):
                async with Subscription(target) as subscription:
                    await anext(subscription)

    run(main())


def test_accepted_clients_are_not_counted_as_refused(tmp_path: Path) -> None:
    """Clients that connect with an allowed key and disconnect are not counted."""

    async def main() -> None:
        async with Publisher(tmp_path, keys=KEYS) as publisher:
            for _ in range(5):
                assert await is_answered(publisher, ClientKeys(SERVER.public, FRIEND))
            assert publisher.server.refused == 0

    run(main())


def test_port_scan_is_logged_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A thousand scanned connections are all counted, and logged in one line."""

    async def main() -> None:
        async with Publisher(tmp_path, keys=KEYS) as publisher:
            for _ in range(1000):
                await open_and_close(publisher)
            while publisher.server.refused < 1000:
                await asyncio.sleep(0.01)
            assert await is_answered(publisher, ClientKeys(SERVER.public, FRIEND))

    run(main())
    assert caplog.text.count("refused a client") == 1


def test_read_only_key_cannot_send_commands(tmp_path: Path) -> None:
    """Requests with a read-only key are answered, but its commands are refused; another key's are accepted."""
    accepted: list[str] = []
    command = {"id": "a", "verb": "stop", "arguments": {}}

    async def main() -> None:
        async with Publisher(tmp_path, keys=KEYS) as publisher:
            publisher.server.responder.on_command = lambda identifier, verb, arguments: accepted.append(verb)
            context = zmq.asyncio.Context()
            for pair in (READER, FRIEND):
                requester = Requester(context, publisher.server.request_endpoint, ClientKeys(SERVER.public, pair))
                assert await requester.hello()
                with contextlib.suppress(RequestError) if pair == READER else contextlib.nullcontext():
                    await requester.request("command", command=command)
                    assert pair == FRIEND
                await requester.close()
            context.term()

    run(main())
    assert accepted == ["stop"]


def test_subscriber_that_never_reads(tmp_path: Path) -> None:
    """A subscriber that never reads delays neither the publisher nor another subscriber."""

    async def main() -> None:
        async with Publisher(tmp_path, keys=KEYS, high_water_mark=10) as publisher:
            context = zmq.asyncio.Context()
            for rcvhwm in (1, 1000):
                reader = context.socket(zmq.SUB, socket_class=zmq.Socket)
                reader.rcvhwm = rcvhwm
                reader.curve_serverkey = SERVER.public.encode()
                reader.curve_publickey, reader.curve_secretkey = (key.encode() for key in FRIEND)
                reader.subscribe(b"tw1/event/")
                reader.connect(publisher.server.publish_endpoint)
                if rcvhwm == 1:
                    silent = reader
            while not reader.poll(0):
                publisher.scalars(100)
                await asyncio.sleep(0.01)
            for _ in range(300):
                publisher.scalars(100)
                await asyncio.sleep(0.001)
            last = publisher.recorded[-1].header.seq
            seen = -1
            while seen < last:
                publisher.scalars(100)  # batches beyond the queue are dropped for the good reader too
                await asyncio.sleep(0.01)
                while reader.poll(0):
                    seen = msgpack.unpackb(reader.recv_multipart()[1])["seq"]
            for client in (silent, reader):
                client.close(linger=0)
            context.term()

    run(main())
