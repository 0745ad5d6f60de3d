"""Sends messages until each is delivered, and records the delivered ones on disk.

Messages are sent independently, so that one that fails delays no other. Their order is not kept, unless a message has
a predecessor.
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
"""A small JSON-serializable map. `Any`, because only the sender knows its contents."""

Send: TypeAlias = Callable[[str, Message], Awaitable[None]]
"""Delivers the message of a key, or raises: `DeliveryRefusedError` if it must not be sent again, otherwise to retry."""

MAX_IN_FLIGHT: Final = 64
"""Maximum number of messages that are sent at the same time; those that wait for a retry do not count."""

CLOSE_SECONDS: Final = 2.0
"""Longest time that `close` waits for messages that are being sent, in seconds."""

logger = logging.getLogger("trainwire")


class DeliveryQueue:
    """Sends messages to one receiver.

    Args:
        path: the file that records the keys of delivered messages.
        send: delivers a message.
        send_policy: how a message that fails is sent again.
        in_flight: maximum number of messages that are sent at the same time.
        predecessor: returns the key of the message that must be delivered before another; None if there is none.
    """

    def __init__(
        self,
        path: Path,
        send: Send,
        send_policy: SendPolicy | None = None,
        in_flight: int = MAX_IN_FLIGHT,
        predecessor: Callable[[str], str | None] = lambda _: None,
    ) -> None:
        self._send, self._send_policy, self._predecessor = send, send_policy or SendPolicy(), predecessor
        self._delivered = DeliveredKeys(path)
        self._pending: dict[str, Message] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._sending: set[str] = set()
        self._closing = False
        self._slots = asyncio.Semaphore(in_flight)

    @property
    def undelivered(self) -> int:
        """Number of added messages that are not delivered yet."""
        return len(self._pending)

    async def open(self) -> None:
        """Read the keys of the messages that are delivered already."""
        self._closing = False
        await asyncio.to_thread(self._delivered.load)

    def add(self, messages: Mapping[str, Message]) -> None:
        """Add messages by their keys, except those delivered before. `start` begins to send them."""
        self._pending |= {key: message for key, message in messages.items() if key not in self._delivered.keys}

    def withdraw(self, key: str) -> None:
        """Drop a pending message, unless its sending has begun."""
        if key not in self._tasks:
            self._pending.pop(key, None)

    def start(self) -> None:
        """Begin to send pending messages."""
        for key, message in list(self._pending.items()):
            if key not in self._tasks and self._predecessor(key) not in self._pending:
                self._tasks[key] = asyncio.create_task(self._deliver(key, message))

    async def settle(self) -> None:
        """Wait until every message that was started is delivered."""
        while tasks := [task for task in self._tasks.values() if not task.done()]:
            await asyncio.wait(tasks)

    async def close(self) -> None:
        """Stop sending, and forget undelivered messages."""
        self._closing = True
        for key in self._tasks.keys() - self._sending:
            self._tasks[key].cancel()
        if tasks := list(self._tasks.values()):
            _, late = await asyncio.wait(tasks, timeout=CLOSE_SECONDS)
            for task in late:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        self._tasks, self._pending = {}, {}

    async def _deliver(self, key: str, message: Message) -> None:
        """Send a message until it is delivered and its key is on disk."""
        failures = 0
        while not await self._attempt(key, message, is_first=not failures):
            if self._closing:
                return
            failures += 1
            await asyncio.sleep(self._send_policy.delay(failures))
        del self._pending[key], self._tasks[key]
        if not self._closing:
            self.start()

    async def _attempt(self, key: str, message: Message, *, is_first: bool) -> bool:
        """Send a message and record its key; return whether both are done."""
        async with self._slots:
            self._sending.add(key)
            try:
                if key not in self._delivered.keys:
                    await self._send_once(key, message)
                await self._delivered.add(key)
            except Exception as error:
                if is_first:
                    logger.warning("the message %s could not be sent: %r; retrying", key, error)
            finally:
                self._sending.discard(key)
        return self._delivered.is_on_disk(key)

    async def _send_once(self, key: str, message: Message) -> None:
        try:
            async with asyncio.timeout(self._send_policy.timeout):
                await self._send(key, message)
        except DeliveryRefusedError as error:
            logger.error("the message %s was refused and will not be sent again: %s", key, error)


class DeliveredKeys:
    """The keys of delivered messages, in an append-only file: one key on each line, escaped as in a Python string.

    Keys are never removed, because a sink may receive all events of the run again.
    """

    def __init__(self, path: Path) -> None:
        self.keys: set[str] = set()
        self._path = path
        self._unwritten: set[str] = set()
        self._lock = asyncio.Lock()

    def load(self) -> None:
        """Read the keys, and truncate an incomplete last line that a crash has left."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._path.touch()
        whole, newline, _ = self._path.read_bytes().rpartition(b"\n")
        os.truncate(self._path, len(whole) + len(newline))
        self.keys = {line.decode("unicode_escape", errors="replace") for line in whole.splitlines()}

    def is_on_disk(self, key: str) -> bool:
        """Return whether a key was added and is on disk."""
        return key in self.keys and key not in self._unwritten

    async def add(self, key: str) -> None:
        """Add a key, and write it to disk.

        Raises:
            OSError: the key cannot be written; it is kept in memory.
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
