"""Sends messages until each has arrived, and remembers on the disk which have.

Each message is tried by itself, so that one that fails delays no other. Their order is not kept, unless one is said to
follow another.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any, Final, TypeAlias

from trainwire_protocol.errors import DeliveryRefusedError
from trainwire_sinks.runtime.retry import SendPolicy

Message: TypeAlias = Mapping[str, Any]
"""What is sent: a small map that JSON can hold. `Any`, as only the sender knows what is in it."""

Send: TypeAlias = Callable[[str, Message], Awaitable[None]]
"""Delivers the message of a key, or raises; `DeliveryRefusedError` if trying again is of no use."""

MAX_IN_FLIGHT: Final = 64
"""Messages that are being sent at once; those that wait for their next try are not counted."""

CLOSE_SECONDS: Final = 2.0
"""How long a message that is being sent may take to arrive when its courier is closed."""

logger = logging.getLogger("trainwire")


class DeliveryQueue:
    """Sends to one receiver.

    Args:
        path: the file that has the keys of the messages that have arrived.
        send: delivers a message.
        send_policy: how it is tried again.
        in_flight: messages that are being sent at once.
        follows: says which message, by its key, has to arrive before another; None if there is none.
    """

    def __init__(
        self,
        path: Path,
        send: Send,
        send_policy: SendPolicy | None = None,
        in_flight: int = MAX_IN_FLIGHT,
        follows: Callable[[str], str | None] = lambda _: None,
    ) -> None:
        self._send, self._send_policy, self._follows = send, send_policy or SendPolicy(), follows
        self._delivered = Delivered(path)
        self._waiting: dict[str, Message] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._sending: set[str] = set()
        self._closing = False
        self._places = asyncio.Semaphore(in_flight)

    @property
    def undelivered(self) -> int:
        """Messages that were taken up and have not arrived."""
        return len(self._waiting)

    async def open(self) -> None:
        """Read which messages have arrived."""
        self._closing = False
        await asyncio.to_thread(self._delivered.load)

    def add(self, messages: Mapping[str, Message]) -> None:
        """Take on messages, by their keys; those that have arrived before are left out."""
        self._waiting |= {key: message for key, message in messages.items() if key not in self._delivered.keys}

    def start(self) -> None:
        """Begin to send what waits."""
        for key in [key for key in self._waiting if key not in self._tasks and self._follows(key) not in self._waiting]:
            self._tasks[key] = asyncio.create_task(self._deliver(key, self._waiting[key]))

    async def settle(self) -> None:
        """Wait until every message has arrived."""
        while tasks := [task for task in self._tasks.values() if not task.done()]:
            await asyncio.wait(tasks)

    async def close(self) -> None:
        """Stop sending, and forget what has not arrived."""
        self._closing = True
        for key in self._tasks.keys() - self._sending:
            self._tasks[key].cancel()
        if tasks := list(self._tasks.values()):
            _, late = await asyncio.wait(tasks, timeout=CLOSE_SECONDS)
            for task in late:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        self._tasks, self._waiting = {}, {}

    async def _deliver(self, key: str, message: Message) -> None:
        """Try until the message has arrived, and that is written down."""
        failures = 0
        while not await self._try(key, message, is_first=not failures):
            if self._closing:
                return
            failures += 1
            await asyncio.sleep(self._send_policy.delay(failures))
        del self._waiting[key], self._tasks[key]
        if not self._closing:
            self.start()

    async def _try(self, key: str, message: Message, *, is_first: bool) -> bool:
        """Whether nothing more is to be done for the message."""
        async with self._places:
            self._sending.add(key)
            try:
                if key not in self._delivered.keys:
                    await self._send_once(key, message)
                await self._delivered.note(key)
            except Exception as error:
                if is_first:
                    logger.warning("the message %s could not be sent: %r; trying again", key, error)
            finally:
                self._sending.discard(key)
        return self._delivered.is_on_disk(key)

    async def _send_once(self, key: str, message: Message) -> None:
        try:
            async with asyncio.timeout(self._send_policy.timeout):
                await self._send(key, message)
        except DeliveryRefusedError as error:
            logger.error("the message %s was refused, and is given up: %s", key, error)


class Delivered:
    """The keys of messages that have arrived, a line each, escaped as Python would, in a file that only grows.

    It is never cut: events that were seen before can always be given again, from the run's beginning on.
    """

    def __init__(self, path: Path) -> None:
        self.keys: set[str] = set()
        self._path = path
        self._unwritten: set[str] = set()
        self._lock = asyncio.Lock()

    def load(self) -> None:
        """Read the keys; the end of a line that was cut off by a crash is taken away."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._path.touch()
        whole, newline, _ = self._path.read_bytes().rpartition(b"\n")
        os.truncate(self._path, len(whole) + len(newline))
        self.keys = {line.decode("unicode_escape", errors="replace") for line in whole.splitlines()}

    def is_on_disk(self, key: str) -> bool:
        """Whether it is written down that a message has arrived."""
        return key in self.keys and key not in self._unwritten

    async def note(self, key: str) -> None:
        """Write down that a message has arrived.

        Raises:
            OSError: it could not be written; it is known all the same, as long as this process lives.
        """
        self.keys.add(key)
        self._unwritten.add(key)
        async with self._lock:
            await asyncio.to_thread(_append, self._path, key.encode("unicode_escape") + b"\n")
        self._unwritten.discard(key)


def _append(path: Path, data: bytes) -> None:
    with path.open("ab") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
