"""Serves one rank of a run from a relay's copy, with the protocol of the trainer that recorded it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import groupby
from typing import Any, Final

from trainwire_protocol.errors import ProtocolError, RequestError, UsageError
from trainwire_protocol.process import ProcessIdentity
from trainwire_protocol.transport.connection import Connection, connection_path, read_connection, write_connection
from trainwire_protocol.transport.live import Heartbeat
from trainwire_protocol.transport.server import Server
from trainwire_protocol.wire import Batch
from trainwire_sinks.relay.copy import Copy
from trainwire_sinks.relay.endpoint_allocator import EndpointAllocator
from trainwire_sinks.relay.writer import Writer

RETRY_SECONDS: Final = 0.5
"""How long after a failed write the next one is tried."""

Command = Callable[[str, str, Mapping[str, Any]], Awaitable[None]]

logger = logging.getLogger("trainwire")


class CopyServer:
    """A copy and the server that publishes what is added to it."""

    def __init__(self, copy: Copy, places: EndpointAllocator, session: str, writer: Writer) -> None:
        """Bind the sockets, and tell where they are.

        Args:
            copy: what is served.
            places: gives the endpoints.
            session: the relay's own.
            writer: does what the copy has to do on the disk.

        Raises:
            UsageError: no endpoint can be bound, or the connection file cannot be written.
        """
        self.copy = copy
        self.command: Command | None = None
        """Passes a command on to the trainer, while there is one."""
        self.world_size = 1
        self._session, self._keys, self._writer = session, places.client_keys, writer
        self._renewal: asyncio.Future[None] | None = None
        self._told: Mapping[str, Any] = {}
        self._heartbeat: Heartbeat | None = None
        self._is_over = copy.ended is not None
        self.server = self._open(places)
        self.server.heads.update(copy.heads)
        self.server.responder.on_command = self._pass_on
        try:
            self._tell_place()
        except UsageError:
            self.server.close(linger=0)
            raise
        self._answering = asyncio.ensure_future(self.server.answer_requests())

    async def hold(self, world_size: int) -> None:
        """The rank is about to be followed."""
        self._is_over, self.world_size = False, world_size
        self._tell_place()
        await self._writer.submit(self.copy.hold)

    def renew(self) -> None:
        """Have the copy's lease renewed, unless a disk that hangs still has to do it for the last time."""
        if self._renewal is None or self._renewal.done():
            self._renewal = self._writer.submit(self.copy.renew)

    async def take(self, batches: Sequence[Batch]) -> None:
        """Keep batches, and publish them once they are on the disk; one that fails is waited for."""
        for number, group in groupby(batches, lambda batch: batch.header.attempt):
            if number > self.copy.attempt.number:
                await self._insist(self.copy.begin, number)
                self.server.continue_with(self.copy.attempt)
                self._tell_place()
            kept = list(group)
            await self._insist(self.copy.append, kept)
            for batch in kept:
                self.server.publish(batch)

    async def end(self, trainer: ProcessIdentity | None) -> None:
        """The run is over, as far as can be known."""
        self._is_over = True
        await self._insist(self.copy.end, trainer)

    def beat(self, heartbeat: Heartbeat | None) -> None:
        """Pass on the trainer's heartbeat, if it is a new one: a trainer that is silent is silent here too."""
        if heartbeat and heartbeat is not self._heartbeat:
            self._heartbeat = heartbeat
            self._told = {name: value for name, value in heartbeat.fields.items() if name != "walltime"}
            self.server.beat()

    async def close(self) -> None:
        """Close sockets and files; the copy stays for the next start."""
        self._answering.cancel()
        await asyncio.gather(self._answering, return_exceptions=True)
        self.server.close(linger=0.2)
        await self._writer.submit(self.copy.close)

    def _open(self, places: EndpointAllocator) -> Server:
        attempt, previous = self.copy.attempt, None
        with contextlib.suppress(ProtocolError):
            previous = read_connection(connection_path(self.copy.folder, self.copy.rank))
        problem: UsageError | None = None
        for endpoints in places.offers(previous):
            try:
                return Server.open(attempt, endpoints, self._describe, self._introduce, context=places.context)
            except UsageError as error:
                problem = error
        raise UsageError(f"no more ranks can be served: {problem}")

    def _tell_place(self) -> None:
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
        return {**self._told, **ended}

    def _introduce(self) -> dict[str, Any]:
        return {
            "session": self._session,
            "world_size": self.world_size,
            "process": ProcessIdentity.of_this_process()._asdict(),
            "hparams": self.copy.hparams,
            "relay": True,
            "over": self._is_over,
        }

    async def _pass_on(self, identifier: str, verb: str, arguments: Mapping[str, Any]) -> None:
        if self.command is None:
            raise RequestError("this relay has nobody to pass commands on to: the training is over, or not reached yet")
        await self.command(identifier, verb, arguments)

    async def _insist(self, function: Callable[..., None], *arguments: object) -> None:
        """Do something on the disk until it works: meanwhile the trainer's journal keeps what comes."""
        for pause in _pauses():
            try:
                await self._writer.submit(partial(function, *arguments))
                break
            except OSError as error:
                if pause == RETRY_SECONDS:
                    logger.warning("%s cannot be written: %s; trying again", self.copy.folder, error.strerror)
                await asyncio.sleep(pause)


def _pauses() -> Iterator[float]:
    pause = RETRY_SECONDS
    while True:
        yield pause
        pause = min(2 * pause, 10.0)
