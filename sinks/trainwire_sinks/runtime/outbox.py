"""What cannot be taken back, as a message that was sent: written down first, then delivered at least once.

A message has a key, made of the identity of the event that it is about. It is on the disk before it is sent, and what
was delivered is written down apart. So a sink that is killed at any moment sends what it had not, and one that is
brought back and given the same events again sends nothing twice. Between a delivery and its being written down there is
a moment that no sender can close: whoever receives a message is given its key, and can tell that it came before.
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


def message_key(batch: Batch, place: int, sub: str = "") -> str:
    """The key of a message about the event at `place` in a batch's events; `sub` tells several of one event apart."""
    header = batch.header
    return f"{header.run}/{header.rank}/{header.attempt}/{header.seq + place}/{sub}"


class Outbox:
    """An output of messages: `add` them in `handle`; they are sent once a commit has written them down.

    Whoever sends to several receivers gives it several couriers, and overrides `encode`, `decode` and `enqueue`.
    """

    def __init__(self, path: Path, couriers: Iterable[DeliveryQueue]) -> None:
        """Keep messages in `path`."""
        self.path = path
        self._file = AppendOutput(path)
        self._couriers = tuple(couriers)
        self._added: dict[str, Message] = {}

    @classmethod
    def of_sink(cls, folder: Path, name: str, rank: int, send: Send, send_policy: SendPolicy | None = None) -> Outbox:
        """The outbox of a sink, beside its cursor, and beside it the keys of messages that have arrived."""
        path = folder / ".trainwire" / f"{name}-rank{rank}.outbox"
        return cls(path, [DeliveryQueue(path.with_name(f"{path.name}.delivered"), send, send_policy)])

    @property
    def length(self) -> int:
        """How long the file of messages is, in bytes, with what waits to be written."""
        return self._file.length

    @property
    def undelivered(self) -> int:
        """Messages that are written down and have not arrived."""
        return sum(courier.undelivered for courier in self._couriers)

    def exists(self) -> bool:
        """Whether there are messages on the disk already."""
        return self._file.exists()

    def encode(self, key: str, message: Message) -> str:
        """The line of a message in the file, without its end."""
        return json.dumps([key, message])

    def decode(self, line: bytes) -> tuple[str, Message]:
        """The key and message of a line.

        Raises:
            ValueError, TypeError: it is none.
        """
        key, message = json.loads(line)
        return str(key), dict(message)

    def enqueue(self, key: str, message: Message) -> None:
        """Give a message to whoever is to send it."""
        for courier in self._couriers:
            courier.add({key: message})

    async def open(self, length: int) -> None:
        """Forget messages behind `length`, and take up those before it that have not arrived.

        Raises:
            OutputChangedError: the file is not what it was.
        """
        await self.close()
        await self._file.open(length)
        for courier in self._couriers:
            await courier.open()
        for key, message in (await asyncio.to_thread(self._read)).items():
            self.enqueue(key, message)

    async def add(self, key: str, message: Message) -> None:
        """Have a message sent; one whose key was sent before is not sent again."""
        await self._file.write(self.encode(key, message) + "\n")
        self._added[key] = message

    async def flush(self) -> None:
        """Write down what was added, and begin to send it."""
        if self._added:
            await self._file.flush()
            await asyncio.to_thread(_sync, self.path)
            for key, message in self._added.items():
                self.enqueue(key, message)
            self._added = {}
        for courier in self._couriers:
            courier.start()

    async def settle(self) -> None:
        """Wait until every message has arrived."""
        for courier in self._couriers:
            await courier.settle()

    async def close(self) -> None:
        """Stop sending. What has not arrived is kept, and sent by whoever opens the outbox again."""
        await asyncio.gather(*(courier.close() for courier in self._couriers))
        self._added = {}
        await self._file.close()

    def _read(self) -> dict[str, Message]:
        try:
            return dict(map(self.decode, self.path.read_bytes().splitlines()))
        except (ValueError, TypeError, KeyError) as error:
            raise OutputChangedError(f"{self.path} holds something else than messages ({error!r})") from error


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
