"""An output for messages, which cannot be undone: each is written to disk first, then sent at least once.

A message has a key, made from the identity of its event. It is on disk before it is sent, and the keys of delivered
messages are recorded in a separate file. A sink that was killed therefore sends its unsent messages when it is started
again, and a sink that is rolled back and receives the same events again sends nothing twice. Only a crash between a
delivery and its record leads to a second delivery; the receiver can recognize it by the key.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Iterable
from pathlib import Path

from trainwire_protocol.errors import OutputChangedError
from trainwire_protocol.wire import Batch
from trainwire_sinks.runtime.delivery_queue import DeliveryQueue, Message, Send
from trainwire_sinks.runtime.output import AppendOutput
from trainwire_sinks.runtime.retry import SendPolicy


def message_key(batch: Batch, index: int, sub: str = "") -> str:
    """Return the key of a message about the event at `index` in a batch.

    `sub` distinguishes several messages about one event.
    """
    header = batch.header
    return f"{header.run}/{header.rank}/{header.attempt}/{header.seq + index}/{sub}"


class Outbox:
    """An output of messages: a sink calls `add` in `handle`, and the next commit writes and sends them.

    For several receivers, subclass it, pass a queue for each, and override `encode`, `decode` and `enqueue`.

    Args:
        path: the file of messages.
        queues: the delivery queues that send them.
    """

    def __init__(self, path: Path, queues: Iterable[DeliveryQueue]) -> None:
        self.path = path
        self._file = AppendOutput(path)
        self._delivery_queues = tuple(queues)
        self._added: dict[str, Message] = {}

    @classmethod
    def of_sink(cls, folder: Path, name: str, rank: int, send: Send, send_policy: SendPolicy | None = None) -> Outbox:
        """Return the outbox of a sink with one receiver; its files are beside the sink's cursor."""
        path = folder / ".trainwire" / f"{name}-rank{rank}.outbox"
        return cls(path, [DeliveryQueue(path.with_name(f"{path.name}.delivered"), send, send_policy)])

    @property
    def length(self) -> int:
        """Length of the file of messages in bytes, buffered ones included."""
        return self._file.length

    @property
    def undelivered(self) -> int:
        """Number of written messages that are not delivered yet."""
        return sum(queue.undelivered for queue in self._delivery_queues)

    def exists(self) -> bool:
        """Return whether there are messages on disk."""
        return self._file.exists()

    def encode(self, key: str, message: Message) -> str:
        """Return the line of a message in the file, without its newline."""
        return json.dumps([key, message])

    def decode(self, line: bytes) -> tuple[str, Message]:
        """Return the key and the message of a line.

        Raises:
            ValueError, TypeError, KeyError: the line is not a message.
        """
        key, message = json.loads(line)
        return str(key), dict(message)

    def enqueue(self, key: str, message: Message) -> None:
        """Pass a message to the queues that send it."""
        for queue in self._delivery_queues:
            queue.add({key: message})

    async def open(self, length: int) -> None:
        """Drop messages after `length`, and queue the undelivered ones before it.

        Raises:
            OutputChangedError: the file was changed.
        """
        await self.close()
        await self._file.open(length)
        for queue in self._delivery_queues:
            await queue.open()
        for key, message in (await asyncio.to_thread(self._read)).items():
            self.enqueue(key, message)

    async def add(self, key: str, message: Message) -> None:
        """Add a message; one whose key was delivered before is not sent again."""
        await self._file.write(self.encode(key, message) + "\n")
        self._added[key] = message

    async def flush(self) -> None:
        """Write added messages to disk, and begin to send them."""
        if self._added:
            await self._file.flush()
            await asyncio.to_thread(_sync, self.path)
            for key, message in self._added.items():
                self.enqueue(key, message)
            self._added = {}
        for queue in self._delivery_queues:
            queue.start()

    async def settle(self) -> None:
        """Wait until every message is delivered."""
        for queue in self._delivery_queues:
            await queue.settle()

    async def close(self) -> None:
        """Stop sending. Undelivered messages stay on disk, and are sent when the outbox is opened again."""
        await asyncio.gather(*(queue.close() for queue in self._delivery_queues))
        self._added = {}
        await self._file.close()

    async def keep_aside(self, attempt: int) -> None:
        """Rename the file of messages to that of an attempt; which ones are delivered stays known."""
        await self._file.keep_aside(attempt)

    def _read(self) -> dict[str, Message]:
        try:
            return dict(map(self.decode, self.path.read_bytes().splitlines()))
        except (ValueError, TypeError, KeyError) as error:
            raise OutputChangedError(f"{self.path} has lines that are not messages ({error!r})") from error


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
