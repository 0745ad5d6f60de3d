"""Reads messages of a stream, in its order, each once: a durable consumer, made anew where something is missing."""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from trainwire_protocol.errors import NatsError
from trainwire_sinks.nats.connection import told

if TYPE_CHECKING:
    from nats.aio.msg import Msg
    from nats.js import JetStreamContext

FETCH_MESSAGES: Final = 256
"""Messages that are asked for at once: at most 128 MiB."""

FETCH_SECONDS: Final = 0.2
"""How long they are waited for."""

NAMED_SECONDS: Final = 30 * 86_400.0
"""How long the servers keep the place of a reader that is not there."""

NAMELESS_SECONDS: Final = 300.0


class Consumer:
    """A consumer on some subjects of a stream.

    The servers keep how far its reader has got, under its name. What they have sent and was not received, as when one
    of them is killed, they would send again after half a minute, behind what follows. So the consumer is begun anew
    behind the last message that was received.
    """

    def __init__(self, context: JetStreamContext, stream: str, subjects: Sequence[str], name: str | None) -> None:
        """Prepare to read; a name is what the reader goes by when it is started again."""
        self._context, self._stream, self._subjects = context, stream, list(subjects)
        self._is_named, self.name = name is not None, name or f"reader-{secrets.token_hex(6)}"
        self._subscription: JetStreamContext.PullSubscription | None = None
        self.at = 0
        """Number in the stream of the last message that was received."""
        self.beginnings = 0
        """How often it was begun: what was received before the last one cannot be acknowledged any more."""
        self._expected = 1

    async def floor(self) -> int:
        """Number of the last message that was acknowledged before this start; 0 if there is none.

        Raises:
            NatsError: the servers do not say.
        """
        from nats.js.errors import NotFoundError

        if not self._is_named:
            return 0
        with told(f"the consumer {self.name}"):
            try:
                info = await self._context.consumer_info(self._stream, self.name)
            except NotFoundError:
                return 0
        return (info.ack_floor.stream_seq or 0) if info.ack_floor else 0

    async def begin(self, after: int) -> None:
        """Read what comes after a message of the stream.

        Raises:
            NatsError: the servers do not let us.
        """
        from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy

        await self._end()
        config = ConsumerConfig(
            name=self.name, durable_name=self.name, deliver_policy=DeliverPolicy.BY_START_SEQUENCE,
            opt_start_seq=after + 1, ack_policy=AckPolicy.ALL, filter_subjects=self._subjects, max_ack_pending=-1,
            inactive_threshold=NAMED_SECONDS if self._is_named else NAMELESS_SECONDS,
        )  # fmt: skip
        with told(f"the consumer {self.name}"):
            await self._context.add_consumer(self._stream, config)
            self._subscription = await self._context.pull_subscribe_bind(self.name, self._stream)
        self.at, self._expected, self.beginnings = after, 1, self.beginnings + 1

    async def receive(self) -> list[Msg]:
        """The next messages; none if none came in a moment.

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
            place = message.metadata.sequence
            if place.consumer != self._expected or message.metadata.num_delivered != 1:
                await self.begin(self.at)
                break
            self.at, self._expected = place.stream, self._expected + 1
            received.append(message)
        return received

    async def recover(self) -> None:
        """Begin anew if something was sent that was not received, or if the consumer is gone.

        Raises:
            NatsError: the servers do not answer.
        """
        from nats.js.errors import NotFoundError

        with told(f"the consumer {self.name}"):
            try:
                info = await self._context.consumer_info(self._stream, self.name)
                is_lost = bool(info.delivered) and info.delivered.consumer_seq >= self._expected
            except NotFoundError:
                is_lost = True
        if is_lost:
            await self.begin(self.at)

    async def close(self) -> None:
        """Stop reading; the servers keep the place of a reader that has a name."""
        with contextlib.suppress(NatsError):
            await (self._unsubscribe() if self._is_named else self._end())

    async def _unsubscribe(self) -> None:
        subscription, self._subscription = self._subscription, None
        if subscription:
            with told("the subscription"):
                await subscription.unsubscribe()

    async def _end(self) -> None:
        from nats.js.errors import NotFoundError

        with contextlib.suppress(NatsError):
            await self._unsubscribe()
        with told(f"the consumer {self.name}"), contextlib.suppress(NotFoundError):
            await self._context.delete_consumer(self._stream, self.name)
