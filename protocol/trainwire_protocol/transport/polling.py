"""Waits for messages and events of plain ZeroMQ sockets on an asyncio loop."""

from __future__ import annotations

import asyncio
import secrets
import selectors
from collections.abc import Callable
from typing import Any

import zmq
import zmq.asyncio
from zmq.utils.monitor import parse_monitor_message


class CoalescingSelector:
    """Polls many file descriptors together, at most once per interval.

    With hundreds of sockets, waking the loop for each of them costs more than handling their messages.
    """

    def __init__(self, interval: float) -> None:
        """Start on the running loop.

        Args:
            interval: seconds from the first readable descriptor to the poll that runs the callbacks.
        """
        self._interval = interval
        self._loop = asyncio.get_running_loop()
        self._selector = selectors.DefaultSelector()
        self._timer: asyncio.TimerHandle | None = None
        self._loop.add_reader(self._selector, self._schedule)

    def add_reader(self, descriptor: int, callback: Callable[[], None]) -> None:
        """Call `callback` when the descriptor is readable, like the loop's method of this name."""
        self._selector.register(descriptor, selectors.EVENT_READ, callback)

    def remove_reader(self, descriptor: int) -> None:
        """Stop watching the descriptor."""
        self._selector.unregister(descriptor)

    def close(self) -> None:
        """Stop polling."""
        self._loop.remove_reader(self._selector)
        if self._timer:
            self._timer.cancel()
        self._selector.close()

    def _schedule(self) -> None:
        self._loop.remove_reader(self._selector)
        self._timer = self._loop.call_later(self._interval, self._poll)

    def _poll(self) -> None:
        for key, _ in self._selector.select(0):
            key.data()
        self._loop.add_reader(self._selector, self._schedule)


class SocketPoller:
    """Waits until a socket has a message for its one reader, without receiving it.

    An asyncio socket of pyzmq receives on behalf of the waiting task, which costs several times as much and loses the
    message if the wait is cancelled at the same moment.
    """

    def __init__(self, socket: zmq.Socket[bytes], selector: CoalescingSelector | None = None) -> None:
        """Watch a socket on the running loop, or with a selector that many sockets share."""
        self._socket, self._descriptor = socket, int(socket.get(zmq.FD))
        self._loop = asyncio.get_running_loop()
        self._readers = selector or self._loop
        self._waiting: asyncio.Future[bool] | None = None
        self._readers.add_reader(self._descriptor, self._check)

    async def wait(self, timeout: float) -> bool:
        """Wait for a message; return False if none arrived in `timeout` seconds.

        Call it only after a non-blocking receive has raised `zmq.Again`: it reports only what arrives later.
        """
        waiting: asyncio.Future[bool] = self._loop.create_future()
        timer = self._loop.call_later(timeout, self._resolve, False)
        self._waiting = waiting
        try:
            return await waiting
        finally:
            timer.cancel()
            self._waiting = None

    def close(self) -> None:
        """Stop watching; call it before the socket is closed."""
        self._readers.remove_reader(self._descriptor)

    def _check(self) -> None:
        # The descriptor stays readable until the socket's events are read, and signals more than messages.
        if int(self._socket.get(zmq.EVENTS)) & zmq.POLLIN:
            self._resolve(True)

    def _resolve(self, has_message: bool) -> None:
        if self._waiting and not self._waiting.done():
            self._waiting.set_result(has_message)


class SocketMonitor:
    """Calls a function with the number and value of each connection event of a socket."""

    def __init__(
        self, context: zmq.asyncio.Context, socket: zmq.Socket[Any], events: int, callback: Callable[[int, int], None]
    ) -> None:
        """Start on the running loop; `events` combines the flags `zmq.EVENT_*` to report."""
        address = f"inproc://monitor-{secrets.token_hex(8)}"
        socket.monitor(address, events)
        self._monitored, self._callback = socket, callback
        self._events = context.socket(zmq.PAIR)
        # With a limit, a flood of connections would block libzmq's I/O thread until this loop has caught up.
        self._events.set(zmq.RCVHWM, 0)
        self._events.connect(address)
        self._task = asyncio.ensure_future(self._run())

    def close(self) -> None:
        """Stop monitoring; call it before the socket is closed."""
        # This must come first: libzmq's I/O thread would block on events that nobody receives.
        self._monitored.disable_monitor()
        self._task.cancel()
        self._events.close(linger=0)

    async def _run(self) -> None:
        while True:
            event = parse_monitor_message(await self._events.recv_multipart())
            self._callback(int(event["event"]), int(event["value"]))
