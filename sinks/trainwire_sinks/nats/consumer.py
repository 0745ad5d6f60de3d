"""The consumer of a stream: it reads messages in order, each once, and is created again if one is missing."""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from trainwire_protocol.errors import NatsError
from trainwire_sinks.nats.connection import nats_errors

if TYPE_CHECKING:
    from nats.aio.msg import Msg
    from nats.js import JetStreamContext

FETCH_MESSAGES: Final = 256
"""Messages that are requested at once: at most 128 MiB."""

FETCH_SECONDS: Final = 0.2
"""How long a fetch waits for messages."""

NAMED_SECONDS: Final = 30 * 86_400.0
"""How long the servers keep the position of a named reader that is not connected."""

UNNAMED_SECONDS: Final = 300.0


class Consumer:
    """A durable consumer of some subjects of a stream.

    The servers keep a reader's position under its name. A message that was sent but not received, for example because a
    server was killed, would be sent again after half a minute, behind its successors. So the consumer is recreated
    after the last message that was received.
    """

    def __init__(self, context: JetStreamContext, stream: str, subjects: Sequence[str], name: str | None) -> None:
        """Prepare to read. With a name, the reader's position survives a restart."""
        self._context, self._stream, self._subjects = context, stream, list(subjects)
        self._is_named, self.name = name is not None, name or f"reader-{secrets.token_hex(6)}"
        self._subscription: JetStreamContext.PullSubscription | None = None
        self.last_received = 0
        """The stream's sequence number of the last message that was received."""
        self.generation = 0
        """Number of times the consumer was created. Messages of earlier generations cannot be acknowledged any more."""
        self._expected = 1
        """The consumer's sequence number of the next message."""

    async def acknowledged(self) -> int:
        """Return the stream's sequence number of the last message acknowledged before this start; 0 if there is none.

        Raises:
            NatsError: the servers do not answer.
        """
        from nats.js.errors import NotFoundError

        if not self._is_named:
            return 0
        with nats_errors(f"the consumer {self.name}"):
            try:
                info = await self._context.consumer_info(self._stream, self.name)
            except NotFoundError:
                return 0
        return (info.ack_floor.stream_seq or 0) if info.ack_floor else 0

    async def start(self, after: int) -> None:
        """Create the consumer, to read the messages after sequence number `after` of the stream.

        Raises:
            NatsError: the servers do not answer, or refuse.
        """
        from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy

        await self._delete()
        config = ConsumerConfig(
            name=self.name, durable_name=self.name, deliver_policy=DeliverPolicy.BY_START_SEQUENCE,
            opt_start_seq=after + 1, ack_policy=AckPolicy.ALL, filter_subjects=self._subjects, max_ack_pending=-1,
            inactive_threshold=NAMED_SECONDS if self._is_named else UNNAMED_SECONDS,
        )  # fmt: skip
        with nats_errors(f"the consumer {self.name}"):
            await self._context.add_consumer(self._stream, config)
            self._subscription = await self._context.pull_subscribe_bind(self.name, self._stream)
        self.last_received, self._expected, self.generation = after, 1, self.generation + 1

    async def receive(self) -> list[Msg]:
        """Return the next messages; none if none arrived within `FETCH_SECONDS`.

        Raises:
            NatsError: the servers do not answer.
        """
        assert self._subscription
        try:
            messages = await self._subscription.fetch(FETCH_MESSAGES, FETCH_SECONDS)
        except TimeoutError:
            return []
        except Exception as error:
            raise NatsError(f"NATS: the consumer {self.name}: {error!r}") from error
        received: list[Msg] = []
        for message in messages:
            sequence = message.metadata.sequence
            if sequence.consumer != self._expected or message.metadata.num_delivered != 1:
                await self.start(self.last_received)
                break
            self.last_received, self._expected = sequence.stream, self._expected + 1
            received.append(message)
        return received

    async def recover(self) -> None:
        """Recreate the consumer if it was deleted, or if a message was sent and not received.

        Raises:
            NatsError: the servers do not answer.
        """
        from nats.js.errors import NotFoundError

        with nats_errors(f"the consumer {self.name}"):
            try:
                info = await self._context.consumer_info(self._stream, self.name)
                is_lost = bool(info.delivered) and info.delivered.consumer_seq >= self._expected
            except NotFoundError:
                is_lost = True
        if is_lost:
            await self.start(self.last_received)

    async def close(self) -> None:
        """Stop reading. The servers keep the position of a named reader."""
        with contextlib.suppress(NatsError):
            await (self._unsubscribe() if self._is_named else self._delete())

    async def _unsubscribe(self) -> None:
        subscription, self._subscription = self._subscription, None
        if subscription:
            with nats_errors("the subscription"):
                await subscription.unsubscribe()

    async def _delete(self) -> None:
        from nats.js.errors import NotFoundError

        with contextlib.suppress(NatsError):
            await self._unsubscribe()
        with nats_errors(f"the consumer {self.name}"), contextlib.suppress(NotFoundError):
            await self._context.delete_consumer(self._stream, self.name)
