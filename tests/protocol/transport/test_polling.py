"""Waiting for plain sockets."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest
import zmq

from trainwire_protocol.transport.polling import CoalescingSelector, SocketPoller


@contextmanager
def pair(context: zmq.Context[zmq.Socket[bytes]], name: str) -> Iterator[tuple[zmq.Socket[bytes], zmq.Socket[bytes]]]:
    """Two sockets that are connected."""
    with context.socket(zmq.PAIR) as sending, context.socket(zmq.PAIR) as receiving:
        sending.bind(f"inproc://{name}")
        receiving.connect(f"inproc://{name}")
        yield sending, receiving


async def receive(socket: zmq.Socket[bytes], arrivals: SocketPoller, timeout: float) -> bytes | None:
    """The next message, if there is one in time."""
    while True:
        try:
            return socket.recv(zmq.NOBLOCK)
        except zmq.Again:
            if not await arrivals.wait(timeout):
                return None


@pytest.mark.parametrize("is_gathered", [False, True])
def test_nothing_is_lost_where_waits_time_out(is_gathered: bool) -> None:
    """All messages come, in order, however many waits end in the moment at which one comes."""

    async def main() -> None:
        with zmq.Context() as context, pair(context, "a") as (sending, receiving):
            selector = CoalescingSelector(0.001) if is_gathered else None
            arrivals = SocketPoller(receiving, selector)
            came: list[int] = []

            async def send() -> None:
                for number in range(300):
                    sending.send(str(number).encode())
                    await asyncio.sleep(0.001)

            sent = asyncio.ensure_future(send())
            while len(came) < 300:
                message = await receive(receiving, arrivals, 0.001)
                came += [int(message)] if message else []
            await sent
            assert came == list(range(300))
            assert await receive(receiving, arrivals, 0.001) is None
            arrivals.close()
            if selector:
                selector.close()

    asyncio.run(main())


def test_many_sockets_are_looked_at_together() -> None:
    """Each of many readers is told of its own messages, also when another has gone; one look serves them all."""

    async def main() -> None:
        with zmq.Context() as context, ExitStack() as stack:
            selector = CoalescingSelector(0.05)
            pairs = [stack.enter_context(pair(context, str(number))) for number in range(20)]
            arrivals = [SocketPoller(receiving, selector) for _, receiving in pairs]
            arrivals.pop().close()
            waiting = [
                asyncio.ensure_future(receive(receiving, one, 20))
                for (_, receiving), one in zip(pairs, arrivals, strict=False)
            ]
            await asyncio.sleep(0)
            for number, (sending, _) in enumerate(pairs):
                sending.send(str(number).encode())
            assert not any(one.done() for one in waiting)
            done, _ = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            assert len(done) == len(waiting)
            assert [one.result() for one in waiting] == [str(number).encode() for number in range(19)]
            for one in arrivals:
                one.close()
            selector.close()

    asyncio.run(main())
