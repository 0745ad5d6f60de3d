"""Waits for plain ZeroMQ sockets on an event loop."""

from __future__ import annotations

import asyncio
import secrets
import selectors
from collections.abc import Callable
from typing import Any

import zmq
import zmq.asyncio
from zmq.utils.monitor import parse_monitor_message


class Gatherer:
    """Looks at many descriptors together, and no more often than it has to.

    To wake for each of hundreds costs more than all that is to be done then.
    """

    def __init__(self, seconds: float) -> None:
        """Let what comes gather for so long before it is told of; on the running loop."""
        self._seconds = seconds
        self._loop = asyncio.get_running_loop()
        self._selector = selectors.DefaultSelector()
        self._looking: asyncio.TimerHandle | None = None
        self._listen()

    def add_reader(self, descriptor: int, callback: Callable[[], None]) -> None:
        """Have `callback` called when there is something to be read; as the loop's method of this name."""
        self._selector.register(descriptor, selectors.EVENT_READ, callback)

    def remove_reader(self, descriptor: int) -> None:
        """Look at it no more."""
        self._selector.unregister(descriptor)

    def close(self) -> None:
        """Look no more."""
        self._loop.remove_reader(self._selector)
        if self._looking:
            self._looking.cancel()
        self._selector.close()

    def _listen(self) -> None:
        self._loop.add_reader(self._selector, self._wait)

    def _wait(self) -> None:
        self._loop.remove_reader(self._selector)
        self._looking = self._loop.call_later(self._seconds, self._look)

    def _look(self) -> None:
        for key, _ in self._selector.select(0):
            key.data()
        self._listen()


class SocketPoller:
    """Tells one reader when there is something to be received.

    An asyncio socket receives for whoever waits, at several times the cost of the receiving itself, and loses what it
    has received if the wait is over in the same moment. Here nothing is received before it is asked for.
    """

    def __init__(self, socket: zmq.Socket[bytes], gatherer: Gatherer | None = None) -> None:
        """Watch a socket, on the running loop; by a gatherer, where many are watched."""
        self._socket, self._descriptor = socket, int(socket.get(zmq.FD))
        self._loop = asyncio.get_running_loop()
        self._readers = gatherer or self._loop
        self._waiting: asyncio.Future[bool] | None = None
        self._readers.add_reader(self._descriptor, self._look)

    async def wait(self, timeout: float) -> bool:
        """Wait for something to be there; False if nothing came in `timeout` seconds.

        To be called when a receive without waiting has found nothing: what was there before that is not told of.
        """
        waiting: asyncio.Future[bool] = self._loop.create_future()
        timer = self._loop.call_later(timeout, self._settle, False)
        self._waiting = waiting
        try:
            return await waiting
        finally:
            timer.cancel()
            self._waiting = None

    def close(self) -> None:
        """Watch no more; before the socket is closed."""
        self._readers.remove_reader(self._descriptor)

    def _look(self) -> None:
        # The descriptor stays readable until the socket is asked for its events, and tells of more than messages.
        if int(self._socket.get(zmq.EVENTS)) & zmq.POLLIN:
            self._settle(True)

    def _settle(self, is_there: bool) -> None:
        if self._waiting and not self._waiting.done():
            self._waiting.set_result(is_there)


class Monitor:
    """Calls a function with number and value of each of a socket's events, on the running loop."""

    def __init__(
        self, context: zmq.asyncio.Context, socket: zmq.Socket[Any], events: int, heard: Callable[[int, int], None]
    ) -> None:
        address = f"inproc://monitor-{secrets.token_hex(8)}"
        socket.monitor(address, events)
        self._socket, self._heard = socket, heard
        self._events = context.socket(zmq.PAIR)
        # Were it limited, a flood of connections would make libzmq's own thread wait for this loop.
        self._events.set(zmq.RCVHWM, 0)
        self._events.connect(address)
        self._hearing = asyncio.ensure_future(self._hear())

    def close(self) -> None:
        """Hear no more; before the socket is closed."""
        # First of all: libzmq's own thread would wait for ever for events to be taken.
        self._socket.disable_monitor()
        self._hearing.cancel()
        self._events.close(linger=0)

    async def _hear(self) -> None:
        while True:
            event = parse_monitor_message(await self._events.recv_multipart())
            self._heard(int(event["event"]), int(event["value"]))
