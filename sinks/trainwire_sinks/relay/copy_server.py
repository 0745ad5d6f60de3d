"""The server of a copy: it serves one rank of a run as the trainer that recorded it does."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from itertools import groupby
from typing import Any, Final

from trainwire_protocol.errors import ProtocolError, RequestError, UsageError
from trainwire_protocol.process import ProcessIdentity
from trainwire_protocol.transport.connection import Connection, connection_path, read_connection, write_connection
from trainwire_protocol.transport.live import Heartbeat
from trainwire_protocol.transport.server import Server
from trainwire_protocol.wire import Batch
from trainwire_sinks.relay.copy import Copy, CopyWriter
from trainwire_sinks.relay.endpoint_allocator import EndpointAllocator

RETRY_SECONDS: Final = 0.5
"""Pause after a failed write; it doubles with each further failure."""

MAX_RETRY_SECONDS: Final = 10.0

CommandSender = Callable[[str, str, Mapping[str, Any]], Awaitable[None]]

logger = logging.getLogger("trainwire")


class CopyServer:
    """Writes batches to a copy, and publishes them once they are on the disk."""

    def __init__(self, copy: Copy, allocator: EndpointAllocator, session: str, writer: CopyWriter) -> None:
        """Bind the sockets and write the connection file.

        Args:
            copy: the copy that is served.
            allocator: assigns the endpoints.
            session: the relay's session.
            writer: calls the methods of the copy.

        Raises:
            UsageError: no endpoint can be bound, or the connection file cannot be written.
        """
        self.copy = copy
        self.command: CommandSender | None = None
        """Sends a command to the trainer; None while the trainer is not followed."""
        self.world_size = 1
        self._session, self._keys, self._writer = session, allocator.client_keys, writer
        self._renewal: asyncio.Future[None] | None = None
        self._heartbeat: Heartbeat | None = None
        self._heartbeat_fields: Mapping[str, Any] = {}
        self._is_over = copy.ended is not None
        self.server = self._open(allocator)
        self.server.heads.update(copy.heads)
        self.server.responder.on_command = self._forward_command
        try:
            self._write_connection()
        except UsageError:
            self.server.close(linger=0)
            raise
        self._answering = asyncio.ensure_future(self.server.answer_requests())

    async def begin(self, world_size: int) -> None:
        """Prepare for batches: announce the world size and take the lease."""
        self._is_over, self.world_size = False, world_size
        self._write_connection()
        await self._writer.submit(self.copy.write_lease)

    def renew_lease(self) -> None:
        """Renew the copy's lease, unless the last renewal is still waiting for the disk."""
        if self._renewal is None or self._renewal.done():
            self._renewal = self._writer.submit(self.copy.renew_lease)

    async def append(self, batches: Sequence[Batch]) -> None:
        """Write batches and publish them once they are on the disk; a failed write is repeated until it succeeds."""
        for number, group in groupby(batches, lambda batch: batch.header.attempt):
            if number > self.copy.attempt.number:
                await self._write(self.copy.begin_attempt, number)
                self.server.continue_with(self.copy.attempt)
                self._write_connection()
            written = list(group)
            await self._write(self.copy.append, written)
            for batch in written:
                self.server.publish(batch)

    async def end(self, trainer: ProcessIdentity | None) -> None:
        """End the copy: its run is over, with a last event or without."""
        self._is_over = True
        await self._write(self.copy.end, trainer)

    def forward_heartbeat(self, heartbeat: Heartbeat | None) -> None:
        """Publish the trainer's heartbeat, if it is new; while the trainer is silent, so is this server."""
        if heartbeat and heartbeat is not self._heartbeat:
            self._heartbeat = heartbeat
            self._heartbeat_fields = {name: value for name, value in heartbeat.fields.items() if name != "walltime"}
            self.server.beat()

    async def close(self) -> None:
        """Close the sockets and files. The copy remains for the next start."""
        self._answering.cancel()
        await asyncio.gather(self._answering, return_exceptions=True)
        self.server.close(linger=0.2)
        await self._writer.submit(self.copy.close)

    def _open(self, allocator: EndpointAllocator) -> Server:
        attempt, previous = self.copy.attempt, None
        with contextlib.suppress(ProtocolError):
            previous = read_connection(connection_path(self.copy.folder, self.copy.rank))
        problem: UsageError | None = None
        for endpoints in allocator.candidates(previous):
            try:
                return Server.open(attempt, endpoints, self._describe, self._introduce, context=allocator.context)
            except UsageError as error:
                problem = error
        raise UsageError(f"no more ranks can be served: {problem}")

    def _write_connection(self) -> None:
        attempt, server = self.copy.attempt, self.server
        connection = Connection(
            server.publish_endpoint, server.request_endpoint, attempt.run, attempt.rank, self.world_size, self._session,
            attempt.number, ProcessIdentity.of_this_process(), self._keys,
        )  # fmt: skip
        try:
            write_connection(connection_path(self.copy.folder, attempt.rank), connection)
        except OSError as error:
            raise UsageError(f"the connection file in {self.copy.folder} cannot be written: {error}") from error

    def _describe(self) -> dict[str, Any]:
        ended = {"state": self.copy.ended.removeprefix("run/")} if self.copy.ended else {}
        return {**self._heartbeat_fields, **ended}

    def _introduce(self) -> dict[str, Any]:
        return {
            "session": self._session,
            "world_size": self.world_size,
            "process": ProcessIdentity.of_this_process()._asdict(),
            "hparams": self.copy.hparams,
            "relay": True,
            **({"over": True} if self._is_over else {}),
        }

    async def _forward_command(self, identifier: str, verb: str, arguments: Mapping[str, Any]) -> None:
        if self.command is None:
            raise RequestError("the relay cannot forward commands: the training is over, or not connected yet")
        await self.command(identifier, verb, arguments)

    async def _write(self, function: Callable[..., None], *arguments: object) -> None:
        """Call a method of the copy until it succeeds. Later events wait in the trainer's journal meanwhile."""
        pause = RETRY_SECONDS
        while True:
            try:
                await self._writer.submit(partial(function, *arguments))
                return
            except OSError as error:
                if pause == RETRY_SECONDS:
                    logger.warning("%s cannot be written: %s; retrying", self.copy.folder, error.strerror)
                await asyncio.sleep(pause)
                pause = min(2 * pause, MAX_RETRY_SECONDS)
