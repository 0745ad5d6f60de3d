"""Writes batches into a stream: each once, in the order recorded, as they stand."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from trainwire_protocol.errors import NatsError
from trainwire_protocol.journal.records import encode_record
from trainwire_protocol.wire import Batch
from trainwire_sinks.nats.connection import ANSWER_SECONDS, connect, last_message, told
from trainwire_sinks.nats.subjects import (
    MESSAGE_ID,
    PART_BYTES,
    Place,
    batch_subject,
    message_id,
    place_of,
    rank_subject,
)
from trainwire_sinks.runtime.output import NoOutput

if TYPE_CHECKING:
    from nats.aio.client import Client
    from nats.js import JetStreamContext

TRIES: Final = 5
"""How often a message is sent before the sink goes back to its last commit: a cluster without its leader needs some."""

RETRY_SECONDS: Final = 0.3

DUPLICATE_SECONDS: Final = 120.0
"""For how long the servers remember ids; what is older is told apart by the last message in the stream."""


class StreamOutput(NoOutput):
    """The output of the sink `nats`, for one rank of one run. How far it has got stands in the stream itself.

    One message is sent after the other, each once the one before is stored. So the last one in the stream says what is
    there, also to a process that is started anew long after the servers have forgotten its ids.
    """

    def __init__(self, servers: Sequence[str], stream: str, replicas: int) -> None:
        """Publish to `stream`, which is made with so many replicas if it is not there."""
        self._servers, self._stream, self._replicas = servers, stream, replicas
        self._client: Client | None = None
        self._context: JetStreamContext | None = None
        self._last: Place | None = None

    async def open(self, length: int) -> None:  # noqa: ARG002  # nothing is taken out of a stream
        """Connect, and make the stream if need be.

        Raises:
            NatsError: the servers cannot be reached, or refuse it.
        """
        await self.close()
        self._client = await connect(self._servers)
        self._context = self._client.jetstream(timeout=ANSWER_SECONDS)
        self._last = None
        await self._make_stream(self._context)

    async def close(self) -> None:
        """Close the connection."""
        client, self._client, self._context = self._client, None, None
        if client is not None:
            with told("closing"):
                await client.close()

    async def publish(self, batch: Batch) -> None:
        """Store a batch, unless it is stored already.

        Raises:
            NatsError: the servers do not take it; it may be tried again.
        """
        header, record = batch.header, encode_record(batch)
        if self._last is None:
            self._last = await self._stored(header.run, header.rank)
        for part, begin in enumerate(range(0, len(record), PART_BYTES)):
            place = Place(header.attempt, header.seq, part)
            if place > self._last:
                data = record[begin : begin + PART_BYTES]
                await self._put(batch_subject(self._stream, header), data, {MESSAGE_ID: message_id(header, part)})
                self._last = place

    async def tell(self, run: str, rank: int, attempt: int, *, renewed: float, over: bool) -> None:
        """Leave word that an attempt went on at a time, in seconds since the epoch, or that it is over.

        Raises:
            NatsError: the servers do not take it.
        """
        subject = f"{rank_subject(self._stream, run, rank)}.{attempt}"
        await self._put(subject, json.dumps({"renewed": renewed, "over": over}).encode(), {"Nats-Rollup": "sub"})

    async def _stored(self, run: str, rank: int) -> Place:
        assert self._context
        last = await last_message(self._context, self._stream, f"{rank_subject(self._stream, run, rank)}.*.*")
        found = place_of((last.headers or {}).get(MESSAGE_ID), run, rank) if last else None
        return found or Place(-1, -1, -1)

    async def _put(self, subject: str, data: bytes, headers: dict[str, str]) -> None:
        problem: NatsError | None = None
        for _ in range(TRIES):
            try:
                with told(f"{subject} cannot be stored"):
                    assert self._context
                    await self._context.publish(subject, data, timeout=2.0, stream=self._stream, headers={**headers})
                return
            except NatsError as error:
                problem = error
            await asyncio.sleep(RETRY_SECONDS)
        assert problem
        raise problem

    async def _make_stream(self, context: JetStreamContext) -> None:
        from nats.js.api import StreamConfig
        from nats.js.errors import NotFoundError

        with told(f"the stream {self._stream}"):
            try:
                await context.stream_info(self._stream)
            except NotFoundError:
                wanted = StreamConfig(
                    name=self._stream, subjects=[f"{self._stream}.>"], num_replicas=self._replicas,
                    duplicate_window=DUPLICATE_SECONDS, allow_rollup_hdrs=True,
                )  # fmt: skip
                await context.add_stream(wanted)
