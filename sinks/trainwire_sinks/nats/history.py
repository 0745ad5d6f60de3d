"""Runs in a stream: the archive that a TARGET names, and the history of one rank that subscriptions read from it."""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import socket
from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from trainwire_protocol.errors import NatsError, TargetError
from trainwire_protocol.journal.attempts import resumed_from
from trainwire_protocol.journal.records import RecordScanner
from trainwire_protocol.journal.tail import events_of
from trainwire_protocol.subscription.history import ArchivedHistory
from trainwire_protocol.subscription.target import Target
from trainwire_protocol.wire import Batch, Cursor
from trainwire_sinks.nats.address import Address, parse_address
from trainwire_sinks.nats.connection import ANSWER_SECONDS, connect, last_message, nats_errors
from trainwire_sinks.nats.consumer import Consumer
from trainwire_sinks.nats.subjects import MESSAGE_ID, parse_message_id, rank_subject, unescape

if TYPE_CHECKING:
    from nats.aio.client import Client
    from nats.aio.msg import Msg
    from nats.js import JetStreamContext


@dataclass(frozen=True)
class StreamArchive:
    """A run in a stream, for one reader."""

    address: Address
    reader: str | None = None
    """The name under which the servers keep the reader's position; None if they do not."""

    def __str__(self) -> str:
        return str(self.address)

    def open(self, rank: int, channels: Collection[str]) -> ArchivedHistory:
        """Return the history of one rank."""
        return StreamHistory(self.address, rank, channels, self.reader)

    def for_sink(self, sink: str, output: Path, rank: int) -> StreamArchive:
        """Return this run for a sink whose position the servers keep; it is identified by its host and output."""
        identity = f"{socket.gethostname()}\0{output.resolve()}\0{self.address.run}\0{rank}"
        reader = f"{sink[:64]}-{hashlib.sha256(identity.encode()).hexdigest()[:16]}"
        return replace(self, reader=re.sub(r"[^A-Za-z0-9_-]", "-", reader))


def resolve_stream(text: str) -> Target:
    """Return the run that an address such as `nats://host/run` names.

    Raises:
        OptionError: the address is invalid.
    """
    return Target(folder=None, archive=StreamArchive(parse_address(text)))


class _Unacknowledged(NamedTuple):
    """The last message of a batch, and the generation of the consumer that received it."""

    cursor: Cursor
    generation: int
    message: Msg


class StreamHistory:
    """The attempts of one rank, read in order from a stream that may still grow.

    Args:
        address: the stream and the run.
        rank: the rank whose batches are read.
        channels: the channels that are read.
        reader: the name of the consumer; without one, the servers do not keep the reader's position.
    """

    def __init__(self, address: Address, rank: int, channels: Collection[str], reader: str | None) -> None:
        self.ended = False
        self.damages: list[str] = []
        self.head: int | None = None
        # A stream contains no leases, so nothing shows that an attempt ended by itself.
        self.is_released = self.is_at_end = False
        self.renewed: float | None = None
        self.quiet_seconds = 0.0
        self._address, self._rank, self._reader = address, rank, reader
        self._channels = sorted(channels)
        self._client: Client | None = None
        self._consumer: Consumer | None = None
        self._prefix = ""
        self._run = address.run
        self._resumed: dict[int, Cursor | None] = {}
        self._scanners: dict[str, RecordScanner] = {}
        self._received: list[Batch] = []
        self._unacknowledged: list[_Unacknowledged] = []

    async def attempts(self) -> dict[int, Cursor | None]:
        """Return each attempt with the position that it resumes from.

        Raises:
            TimeoutError: the servers cannot be reached.
            TargetError: the address names no run and the stream has several.
        """
        with _as_timeout():
            context = await self._connect()
            if not await self._find_run(context):
                return {}
            subjects = await self._subjects(context, f"{self._prefix}.event.*")
            numbers = sorted(int(subject.rpartition(".")[2]) for subject in subjects)
            for number in numbers:
                if number not in self._resumed:
                    self._resumed[number] = await self._read_resumed_from(context, number)
            return {number: self._resumed[number] for number in numbers}

    async def is_over(self, attempt: int) -> bool:
        """Return whether a later attempt has begun, or the publishing sink has stored that the attempt is over.

        Raises:
            TimeoutError: the servers cannot be reached.
        """
        attempts = await self.attempts()
        with _as_timeout():
            last = await last_message(await self._connect(), self._address.stream, f"{self._prefix}.{attempt}")
        status = _parse_status(last.data if last else None)
        renewed = status.get("renewed")
        self.renewed = renewed if isinstance(renewed, float) else self.renewed
        return status.get("over") is True or any(number > attempt for number in attempts)

    async def read(self, after: Cursor, *, final: bool) -> list[Batch]:  # noqa: ARG002  # a stream shows its own end
        """Return the next batches of the attempt in `after` that follow this position; none if there are none yet.

        Raises:
            TimeoutError: the servers cannot be reached.
        """
        with _as_timeout():
            consumer = self._consumer or await self._start_consumer(after)
            while not (found := self._take_received(after)) and not self._received:
                messages = await consumer.receive()
                self.is_at_end = not messages or messages[-1].metadata.num_pending == 0
                for message in messages:
                    self._decode(message, consumer.generation)
                if not messages:
                    if await self._has_received_all(consumer):
                        break
                    await consumer.recover()
        self.ended = self.ended or any(batch.header.last for batch in found)
        return found

    async def acknowledge(self, cursor: Cursor) -> None:
        """Store in the servers that this reader has handled everything up to `cursor`."""
        generation = self._consumer.generation if self._consumer else 0
        self._unacknowledged = [row for row in self._unacknowledged if row.generation == generation]
        handled = [row.message for row in self._unacknowledged if row.cursor <= cursor]
        self._unacknowledged = self._unacknowledged[len(handled) :]
        if handled:
            with contextlib.suppress(NatsError), nats_errors("the acknowledgement"):
                await handled[-1].ack()

    async def close(self) -> None:
        """Close the connection."""
        if self._consumer:
            await self._consumer.close()
        if self._client:
            with contextlib.suppress(NatsError), nats_errors("closing"):
                await self._client.close()

    async def _connect(self) -> JetStreamContext:
        if self._client is None:
            self._client = await connect(self._address.servers)
        return self._client.jetstream(timeout=ANSWER_SECONDS)

    async def _find_run(self, context: JetStreamContext) -> bool:
        """Return whether the stream has the address's run, or its only run if the address names none."""
        if self._run is None:
            subjects = await self._subjects(context, f"{self._address.stream}.*.{self._rank}.event.*")
            runs = sorted({unescape(subject.split(".")[1]) for subject in subjects})
            if len(runs) > 1:
                names = ", ".join(runs[:20])
                raise TargetError(f"{self._address} has several runs; add a run's name to the address: {names}")
            self._run = runs[0] if runs else None
        if self._run is not None:
            self._prefix = rank_subject(self._address.stream, self._run, self._rank)
        return self._run is not None

    async def _subjects(self, context: JetStreamContext, pattern: str) -> Collection[str]:
        from nats.js.errors import NotFoundError

        with nats_errors(f"the stream {self._address.stream}"):
            try:
                info = await context.stream_info(self._address.stream, subjects_filter=pattern)
            except NotFoundError:
                return ()
        return info.state.subjects or ()

    async def _read_resumed_from(self, context: JetStreamContext, attempt: int) -> Cursor | None:
        """Return the position that the first event of an attempt resumes from."""
        scanner, number = RecordScanner(), 0
        while not (batches := scanner.records()):
            with nats_errors(f"attempt {attempt}"):
                message = await context.get_msg(
                    self._address.stream, number + 1, f"{self._prefix}.event.{attempt}", next=True
                )
            number = message.seq or 0
            scanner.feed(message.data or b"")
        events = events_of(batches[0])
        return resumed_from(events[0]) if events else None

    async def _start_consumer(self, after: Cursor) -> Consumer:
        """Start at the position that the servers keep for this reader, or at the beginning if its cursor is earlier."""
        context = await self._connect()
        subjects = [f"{self._prefix}.{channel}.*" for channel in self._channels]
        consumer = Consumer(context, self._address.stream, subjects, self._reader)
        acknowledged = await consumer.acknowledged()
        can_continue = acknowledged and await self._is_handled(context, acknowledged, after)
        await consumer.start(acknowledged if can_continue else 0)
        self._consumer = consumer
        return consumer

    async def _is_handled(self, context: JetStreamContext, number: int, after: Cursor) -> bool:
        """Return whether a message of the stream belongs to a batch that the reader has handled."""
        from nats.js.errors import NotFoundError

        with nats_errors(f"message {number}"):
            try:
                message = await context.get_msg(self._address.stream, number)
            except NotFoundError:
                return False
        key = parse_message_id((message.headers or {}).get(MESSAGE_ID), self._run or "", self._rank)
        return key is not None and (key.attempt, key.seq) <= after

    def _decode(self, message: Msg, generation: int) -> None:
        scanner = self._scanners.setdefault(message.subject, RecordScanner())
        scanner.feed(message.data)
        for batch in scanner.records():
            self._received.append(batch)
            self._unacknowledged.append(_Unacknowledged(batch.cursor, generation, message))
        self.damages += [f"{message.subject}: {damage.length} bytes: {damage.reason}" for damage in scanner.damages]
        scanner.damages.clear()

    def _take_received(self, after: Cursor) -> list[Batch]:
        """Return the batches of this attempt after the cursor, and keep those of later attempts."""
        received, self._received = (
            self._received,
            [batch for batch in self._received if batch.header.attempt > after.attempt],
        )
        return [batch for batch in received if batch.header.attempt == after.attempt and batch.cursor > after]

    async def _has_received_all(self, consumer: Consumer) -> bool:
        """Return whether the consumer has received everything that is stored now."""
        context = await self._connect()
        for channel in self._channels:
            last = await last_message(context, self._address.stream, f"{self._prefix}.{channel}.*")
            if last and (last.seq or 0) > consumer.last_received:
                return False
        return True


@contextlib.contextmanager
def _as_timeout() -> Iterator[None]:
    """Raise TimeoutError if the servers cannot be reached, so that readers wait as for a silent publisher."""
    try:
        yield
    except NatsError as error:
        raise TimeoutError(str(error)) from error


def _parse_status(data: bytes | None) -> dict[str, Any]:
    try:
        status = json.loads(data or b"{}")
    except (ValueError, RecursionError):
        return {}
    return status if isinstance(status, dict) else {}
