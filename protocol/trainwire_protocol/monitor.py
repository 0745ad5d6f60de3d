"""Hears what libzmq tells of a socket's connections."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable
from typing import Any

import zmq
import zmq.asyncio
from zmq.utils.monitor import parse_monitor_message


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
