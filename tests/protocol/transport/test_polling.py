"""Waiting for messages of plain sockets."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest
import zmq

from trainwire_protocol.transport.polling import CoalescingSelector, SocketPoller


@contextmanager
def pair(context: zmq.Context[zmq.Socket[bytes]], name: str) -> Iterator[tuple[zmq.Socket[bytes], zmq.Socket[bytes]]]:
    """Yield two connected sockets."""
    with context.socket(zmq.PAIR) as sending, context.socket(zmq.PAIR) as receiving:
        sending.bind(f"inproc://{name}")
        receiving.connect(f"inproc://{name}")
        yield sending, receiving


async def receive(socket: zmq.Socket[bytes], poller: SocketPoller, timeout: float) -> bytes | None:
    """Return the next message, or None if there is none in time."""
    while True:
        try:
            return socket.recv(zmq.NOBLOCK)
        except zmq.Again:
            if not await poller.wait(timeout):
                return None


@pytest.mark.parametrize("is_shared", [False, True])
def test_timeouts_lose_no_message(is_shared: bool) -> None:
    """All messages arrive in order, even if many waits time out just as one arrives."""

    async def main() -> None:
        with zmq.Context() as context, pair(context, "a") as (sending, receiving):
            selector = CoalescingSelector(0.001) if is_shared else None
            poller = SocketPoller(receiving, selector)
            received: list[int] = []

            async def send() -> None:
                for number in range(300):
                    sending.send(str(number).encode())
                    await asyncio.sleep(0.001)

            sent = asyncio.ensure_future(send())
            while len(received) < 300:
                message = await receive(receiving, poller, 0.001)
                received += [int(message)] if message else []
            await sent
            assert received == list(range(300))
            assert await receive(receiving, poller, 0.001) is None
            poller.close()
            if selector:
                selector.close()

    asyncio.run(main())


def test_shared_selector_polls_many_sockets_at_once() -> None:
    """One poll reports to every reader that its own message arrived, even after another reader has closed."""

    async def main() -> None:
        with zmq.Context() as context, ExitStack() as stack:
            selector = CoalescingSelector(0.05)
            pairs = [stack.enter_context(pair(context, str(number))) for number in range(20)]
            pollers = [SocketPoller(receiving, selector) for _, receiving in pairs]
            pollers.pop().close()
            waiting = [
                asyncio.ensure_future(receive(receiving, one, 20))
                for (_, receiving), one in zip(pairs, pollers, strict=False)
            ]
            await asyncio.sleep(0)
            for number, (sending, _) in enumerate(pairs):
                sending.send(str(number).encode())
            assert not any(one.done() for one in waiting)
            done, _ = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            assert len(done) == len(waiting)
            assert [one.result() for one in waiting] == [str(number).encode() for number in range(19)]
            for one in pollers:
                one.close()
            selector.close()

    asyncio.run(main())
