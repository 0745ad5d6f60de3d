"""The output of the sink `nats`: stores each batch once, unchanged and in order, in a stream."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from trainwire_protocol.errors import NatsError
from trainwire_protocol.journal.records import encode_record
from trainwire_protocol.wire import Batch
from trainwire_sinks.nats.connection import ANSWER_SECONDS, connect, last_message, nats_errors
from trainwire_sinks.nats.subjects import (
    MESSAGE_ID,
    PART_BYTES,
    PartKey,
    batch_subject,
    message_id,
    parse_message_id,
    rank_subject,
)
from trainwire_sinks.runtime.output import NoOutput

if TYPE_CHECKING:
    from nats.aio.client import Client
    from nats.js import JetStreamContext

ATTEMPTS: Final = 5
"""Number of times a message is sent before the sink returns to its last commit; a cluster may be electing a leader."""

RETRY_SECONDS: Final = 0.3

DUPLICATE_SECONDS: Final = 120.0
"""How long the servers remember message ids. Older duplicates are recognized by the last message in the stream."""


class StreamOutput(NoOutput):
    """The stream of one rank of one run. The stream itself shows which batches it has.

    Each message is sent after the previous one is stored. So the last message in the stream shows what is stored, even
    if the sink is restarted long after the servers have forgotten the ids.
    """

    def __init__(self, servers: Sequence[str], stream: str, replicas: int) -> None:
        """Publish to `stream`, which is created with this number of replicas if it does not exist."""
        self._servers, self._stream, self._replicas = servers, stream, replicas
        self._client: Client | None = None
        self._context: JetStreamContext | None = None
        self._last: PartKey | None = None

    async def open(self, length: int) -> None:  # noqa: ARG002  # a stream is never truncated
        """Connect, and create the stream if it does not exist.

        Raises:
            NatsError: the servers cannot be reached, or refuse.
        """
        await self.close()
        self._client = await connect(self._servers)
        self._context = self._client.jetstream(timeout=ANSWER_SECONDS)
        self._last = None
        await self._create_stream(self._context)

    async def close(self) -> None:
        """Close the connection."""
        client, self._client, self._context = self._client, None, None
        if client is not None:
            with nats_errors("closing"):
                await client.close()

    async def publish(self, batch: Batch) -> None:
        """Store a batch, unless it is stored already.

        Raises:
            NatsError: the servers did not store it; the call can be repeated.
        """
        header, record = batch.header, encode_record(batch)
        if self._last is None:
            self._last = await self._last_stored(header.run, header.rank)
        for part, begin in enumerate(range(0, len(record), PART_BYTES)):
            key = PartKey(header.attempt, header.seq, part)
            if key > self._last:
                data = record[begin : begin + PART_BYTES]
                await self._store(batch_subject(self._stream, header), data, {MESSAGE_ID: message_id(header, part)})
                self._last = key

    async def publish_status(self, run: str, rank: int, attempt: int, *, renewed: float, over: bool) -> None:
        """Store when an attempt was last known to be alive, in seconds since the epoch, and whether it is over.

        Raises:
            NatsError: the servers did not store it.
        """
        subject = f"{rank_subject(self._stream, run, rank)}.{attempt}"
        await self._store(subject, json.dumps({"renewed": renewed, "over": over}).encode(), {"Nats-Rollup": "sub"})

    async def _last_stored(self, run: str, rank: int) -> PartKey:
        assert self._context
        last = await last_message(self._context, self._stream, f"{rank_subject(self._stream, run, rank)}.*.*")
        found = parse_message_id((last.headers or {}).get(MESSAGE_ID), run, rank) if last else None
        return found or PartKey(-1, -1, -1)

    async def _store(self, subject: str, data: bytes, headers: dict[str, str]) -> None:
        problem: NatsError | None = None
        for _ in range(ATTEMPTS):
            try:
                with nats_errors(f"{subject} cannot be stored"):
                    assert self._context
                    await self._context.publish(subject, data, timeout=2.0, stream=self._stream, headers={**headers})
                return
            except NatsError as error:
                problem = error
            await asyncio.sleep(RETRY_SECONDS)
        assert problem
        raise problem

    async def _create_stream(self, context: JetStreamContext) -> None:
        from nats.js.api import StreamConfig
        from nats.js.errors import NotFoundError

        with nats_errors(f"the stream {self._stream}"):
            try:
                await context.stream_info(self._stream)
            except NotFoundError:
                config = StreamConfig(
                    name=self._stream, subjects=[f"{self._stream}.>"], num_replicas=self._replicas,
                    duplicate_window=DUPLICATE_SECONDS, allow_rollup_hdrs=True,
                )  # fmt: skip
                await context.add_stream(config)
