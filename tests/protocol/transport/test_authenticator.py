"""Who is let in over TCP, by real sockets, and what becomes of the others."""

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
from support.reading import until

from trainwire_protocol.errors import RequestError
from trainwire_protocol.subscription.subscription import Subscription
from trainwire_protocol.subscription.target import Target
from trainwire_protocol.transport.auth import ClientKeys, KeyPair, ServerKeys
from trainwire_protocol.transport.requester import Requester

SERVER, FRIEND, READER, STRANGER, OTHER = (KeyPair.make() for _ in range(5))
KEYS = ServerKeys(SERVER, frozenset({FRIEND.public, READER.public}), read_only=frozenset({READER.public}))


def address(publisher: Publisher) -> tuple[str, int]:
    parts = urlsplit(publisher.server.request_endpoint)
    assert parts.hostname
    assert parts.port
    return parts.hostname, parts.port


@contextlib.asynccontextmanager
async def saying_hello(publisher: Publisher, keys: ClientKeys | None) -> AsyncIterator[asyncio.Task[dict[str, Any]]]:
    """A client with these keys, and the answer that it waits for."""
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
    """Whether a client with these keys gets an answer."""
    async with saying_hello(publisher, keys) as hello:
        return (await hello)["run"] == publisher.attempt.run


async def is_refused(publisher: Publisher, keys: ClientKeys | None) -> bool:
    """Whether a client with these keys is counted, and gets no answer; it stays until it is."""
    before = publisher.server.refused
    async with saying_hello(publisher, keys) as hello:
        await until(lambda: hello.done() or publisher.server.refused > before)
        return not hello.done()


async def with_a_wrong_key_of_the_publisher(publisher: Publisher) -> None:
    assert await is_refused(publisher, ClientKeys(OTHER.public, FRIEND))


async def with_a_key_that_is_not_on_the_list(publisher: Publisher) -> None:
    assert await is_refused(publisher, ClientKeys(SERVER.public, STRANGER))


async def without_keys(publisher: Publisher) -> None:
    assert await is_refused(publisher, None)


async def as_a_port_scanner(publisher: Publisher) -> None:
    socket.create_connection(address(publisher)).close()


async def of_another_protocol(publisher: Publisher) -> None:
    def get() -> None:
        connection = http.client.HTTPConnection(*address(publisher), timeout=5)
        with contextlib.suppress(OSError, http.client.HTTPException):
            connection.request("GET", "/")
            connection.getresponse()
        connection.close()

    await asyncio.to_thread(get)


@pytest.mark.parametrize(
    ("come", "told"),
    [
        (with_a_wrong_key_of_the_publisher, "has a wrong public key of this publisher"),
        (with_a_key_that_is_not_on_the_list, "has a key that is not on the list"),
        (without_keys, "sent no key"),
        (as_a_port_scanner, "sent no key"),
        (of_another_protocol, "uses another protocol"),
    ],
)
def test_a_client_that_is_refused(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, come: Callable[[Publisher], Awaitable[None]], told: str
) -> None:
    """It is counted, told of in one line without keys, and nobody else notices."""

    async def main() -> None:
        async with Publisher(tmp_path, keys=KEYS) as publisher:
            await come(publisher)
            await come(publisher)
            while publisher.server.refused < 2:
                await asyncio.sleep(0.01)
            assert await is_answered(publisher, ClientKeys(SERVER.public, FRIEND))

    with caplog.at_level(logging.DEBUG):
        run(main())
    lines = [record.getMessage() for record in caplog.records if record.name.startswith("trainwire")]
    assert len(lines) == 1
    assert told in lines[0]
    assert not any(key in caplog.text for pair in (SERVER, FRIEND, STRANGER, OTHER) for key in pair)


def test_a_client_hears_that_its_key_is_refused(tmp_path: Path) -> None:
    """Who comes with a key that is not on the list is told so, instead of waiting for ever."""

    async def main() -> None:
        async with Publisher(tmp_path, keys=KEYS) as publisher:
            keys = ClientKeys(SERVER.public, STRANGER)
            connection = replace(publisher.connection, keys=keys)
            target = Target(folder=None, request=connection.request, connection=connection)
            with pytest.raises(RequestError, match="not on its list"):
                async with Subscription(target) as subscription:
                    await anext(subscription)

    run(main())


def test_who_was_let_in_is_not_counted(tmp_path: Path) -> None:
    """Clients that came with a key on the list, and went again, are no refused ones."""

    async def main() -> None:
        async with Publisher(tmp_path, keys=KEYS) as publisher:
            for _ in range(5):
                assert await is_answered(publisher, ClientKeys(SERVER.public, FRIEND))
            assert publisher.server.refused == 0

    run(main())


def test_a_scan_of_a_thousand_connections(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """All are counted, and one line is all they cost the log."""

    async def main() -> None:
        async with Publisher(tmp_path, keys=KEYS) as publisher:
            for _ in range(1000):
                await as_a_port_scanner(publisher)
            while publisher.server.refused < 1000:
                await asyncio.sleep(0.01)
            assert await is_answered(publisher, ClientKeys(SERVER.public, FRIEND))

    run(main())
    assert caplog.text.count("refused a client") == 1


def test_a_key_that_may_only_read_sends_no_commands(tmp_path: Path) -> None:
    """A read-only key is answered what it asks, and refused what it commands; another key is obeyed."""
    obeyed: list[str] = []
    command = {"id": "a", "verb": "stop", "arguments": {}}

    async def main() -> None:
        async with Publisher(tmp_path, keys=KEYS) as publisher:
            publisher.server.responder.on_command = lambda identifier, verb, arguments: obeyed.append(verb)
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
    assert obeyed == ["stop"]


def test_a_subscriber_that_never_reads(tmp_path: Path) -> None:
    """It holds up neither the publisher nor another subscriber."""

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
                publisher.scalars(100)  # what does not fit its queue at once is dropped for the good reader too
                await asyncio.sleep(0.01)
                while reader.poll(0):
                    seen = msgpack.unpackb(reader.recv_multipart()[1])["seq"]
            for client in (silent, reader):
                client.close(linger=0)
            context.term()

    run(main())
