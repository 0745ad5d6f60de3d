"""What a stream holds of one rank, as the history that subscriptions read."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Collection, Iterator
from typing import TYPE_CHECKING, Any

from trainwire_protocol.errors import NatsError, TargetError
from trainwire_protocol.journal.attempts import resumed_from
from trainwire_protocol.journal.records import RecordScanner
from trainwire_protocol.journal.tail import events_of
from trainwire_protocol.wire import Batch, Cursor
from trainwire_sinks.nats.address import Address
from trainwire_sinks.nats.connection import ANSWER_SECONDS, connect, last_message, told
from trainwire_sinks.nats.consumer import Consumer
from trainwire_sinks.nats.subjects import MESSAGE_ID, place_of, rank_subject, unescape

if TYPE_CHECKING:
    from nats.aio.client import Client
    from nats.aio.msg import Msg
    from nats.js import JetStreamContext


class StreamHistory:
    """The attempts of one rank, read from a stream in order, with what comes into it.

    Args:
        address: where the stream is, and which run.
        rank: whose batches are read.
        channels: those that are wanted.
        reader: what its consumer is called; without a name nothing is remembered of it.
    """

    def __init__(self, address: Address, rank: int, channels: Collection[str], reader: str | None) -> None:
        self.ended = False
        self.damages: list[str] = []
        self.head: int | None = None
        # No lease says that an attempt ended by itself.
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
        self._held: list[Batch] = []
        self._places: list[tuple[Cursor, int, Msg]] = []

    async def attempts(self) -> dict[int, Cursor | None]:
        """For each attempt the position that it says it resumes from.

        Raises:
            TimeoutError: the servers cannot be reached.
            TargetError: the address names no run, and there are several.
        """
        with _as_silence():
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
        """Whether a later attempt has begun, or the sink that publishes has left word that the run is over.

        Raises:
            TimeoutError: the servers cannot be reached.
        """
        attempts = await self.attempts()
        with _as_silence():
            word = await last_message(await self._connect(), self._address.stream, f"{self._prefix}.{attempt}")
        told = _read_word(word.data if word else None)
        renewed = told.get("renewed")
        self.renewed = renewed if isinstance(renewed, float) else self.renewed
        return told.get("over") is True or any(number > attempt for number in attempts)

    async def read(self, after: Cursor, *, final: bool) -> list[Batch]:  # noqa: ARG002  # the stream's end is its end
        """The next batches behind `after`.

        Raises:
            TimeoutError: the servers cannot be reached.
        """
        with _as_silence():
            consumer = self._consumer or await self._begin(after)
            while not (found := self._wanted(after)) and not self._held:
                messages = await consumer.receive()
                self.is_at_end = not messages or messages[-1].metadata.num_pending == 0
                for message in messages:
                    self._take(message, consumer.beginnings)
                if not messages:
                    if await self._is_at_end(consumer):
                        break
                    await consumer.recover()
        self.ended = self.ended or any(batch.header.last for batch in found)
        return found

    async def acknowledge(self, cursor: Cursor) -> None:
        """Have the servers remember that this reader has all up to `cursor`."""
        begun = self._consumer.beginnings if self._consumer else 0
        self._places = [row for row in self._places if row[1] == begun]
        done = [message for place, _, message in self._places if place <= cursor]
        self._places = self._places[len(done) :]
        if done:
            with contextlib.suppress(NatsError), told("the acknowledgement"):
                await done[-1].ack()

    async def close(self) -> None:
        """Close the connection."""
        if self._consumer:
            await self._consumer.close()
        if self._client:
            with contextlib.suppress(NatsError), told("closing"):
                await self._client.close()

    async def _connect(self) -> JetStreamContext:
        if self._client is None:
            self._client = await connect(self._address.servers)
        return self._client.jetstream(timeout=ANSWER_SECONDS)

    async def _find_run(self, context: JetStreamContext) -> bool:
        """Whether there is the run of the address, or one if it names none."""
        if self._run is None:
            subjects = await self._subjects(context, f"{self._address.stream}.*.{self._rank}.event.*")
            runs = sorted({unescape(subject.split(".")[1]) for subject in subjects})
            if len(runs) > 1:
                raise TargetError(f"{self._address} holds several runs, so name one at its end: {', '.join(runs[:20])}")
            self._run = runs[0] if runs else None
        if self._run is not None:
            self._prefix = rank_subject(self._address.stream, self._run, self._rank)
        return self._run is not None

    async def _subjects(self, context: JetStreamContext, pattern: str) -> Collection[str]:
        from nats.js.errors import NotFoundError

        with told(f"the stream {self._address.stream}"):
            try:
                info = await context.stream_info(self._address.stream, subjects_filter=pattern)
            except NotFoundError:
                return ()
        return info.state.subjects or ()

    async def _read_resumed_from(self, context: JetStreamContext, attempt: int) -> Cursor | None:
        """What the first event of an attempt says."""
        scanner, number = RecordScanner(), 0
        while not (batches := scanner.records()):
            with told(f"attempt {attempt}"):
                message = await context.get_msg(
                    self._address.stream, number + 1, f"{self._prefix}.event.{attempt}", next=True
                )
            number = message.seq or 0
            scanner.feed(message.data or b"")
        events = events_of(batches[0])
        return resumed_from(events[0]) if events else None

    async def _begin(self, after: Cursor) -> Consumer:
        """Read from where this reader was, or from the beginning if its cursor lies before that."""
        context = await self._connect()
        subjects = [f"{self._prefix}.{channel}.*" for channel in self._channels]
        consumer = Consumer(context, self._address.stream, subjects, self._reader)
        floor = await consumer.floor()
        await consumer.begin(floor if floor and await self._lies_before(context, floor, after) else 0)
        self._consumer = consumer
        return consumer

    async def _lies_before(self, context: JetStreamContext, number: int, after: Cursor) -> bool:
        """Whether a message of the stream is of a batch that the reader has."""
        from nats.js.errors import NotFoundError

        with told(f"message {number}"):
            try:
                message = await context.get_msg(self._address.stream, number)
            except NotFoundError:
                return False
        place = place_of((message.headers or {}).get(MESSAGE_ID), self._run or "", self._rank)
        return place is not None and (place.attempt, place.seq) <= after

    def _take(self, message: Msg, begun: int) -> None:
        scanner = self._scanners.setdefault(message.subject, RecordScanner())
        scanner.feed(message.data)
        for batch in scanner.records():
            self._held.append(batch)
            self._places.append((batch.cursor, begun, message))
        self.damages += [f"{message.subject}: {damage.length} bytes: {damage.reason}" for damage in scanner.damages]
        scanner.damages.clear()

    def _wanted(self, after: Cursor) -> list[Batch]:
        """The batches of this attempt behind the cursor; those of later attempts are kept until they are asked for."""
        held, self._held = self._held, [batch for batch in self._held if batch.header.attempt > after.attempt]
        return [batch for batch in held if batch.header.attempt == after.attempt and batch.cursor > after]

    async def _is_at_end(self, consumer: Consumer) -> bool:
        """Whether everything was received that is stored now."""
        context = await self._connect()
        for channel in self._channels:
            last = await last_message(context, self._address.stream, f"{self._prefix}.{channel}.*")
            if last and (last.seq or 0) > consumer.at:
                return False
        return True


@contextlib.contextmanager
def _as_silence() -> Iterator[None]:
    """Servers that cannot be reached are waited for, as publishers are that do not answer."""
    try:
        yield
    except NatsError as error:
        raise TimeoutError(str(error)) from error


def _read_word(data: bytes | None) -> dict[str, Any]:
    try:
        word = json.loads(data or b"{}")
    except (ValueError, RecursionError):
        return {}
    return word if isinstance(word, dict) else {}
