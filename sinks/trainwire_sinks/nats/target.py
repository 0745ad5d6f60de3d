"""A run in a stream of NATS JetStream, as a TARGET."""

from __future__ import annotations

import hashlib
import socket
from collections.abc import Collection
from dataclasses import dataclass, replace
from pathlib import Path

from trainwire_protocol.subscription.history import ArchivedHistory
from trainwire_protocol.subscription.target import Target
from trainwire_sinks.nats.address import Address, parse_address
from trainwire_sinks.nats.history import StreamHistory


@dataclass(frozen=True)
class StreamArchive:
    """A run in a stream, for one reader."""

    address: Address
    reader: str | None = None
    """Name under which the servers remember the reader's position; None if they do not."""

    def __str__(self) -> str:
        return str(self.address)

    def open(self, rank: int, channels: Collection[str]) -> ArchivedHistory:
        """Return the history of one rank."""
        return StreamHistory(self.address, rank, channels, self.reader)

    def for_sink(self, sink: str, output: Path, rank: int) -> StreamArchive:
        """Return this run for a sink, whose position the servers remember by what it writes and where."""
        identity = f"{socket.gethostname()}\0{output.resolve()}\0{self.address.run}\0{rank}"
        reader = f"{sink[:64]}-{hashlib.sha256(identity.encode()).hexdigest()[:16]}"
        return replace(self, reader="".join(map(_allowed, reader)))


def resolve_stream(text: str) -> Target:
    """Return the run that an address like `nats://host/run` names.

    Raises:
        OptionError: the address is invalid.
    """
    return Target(folder=None, archive=StreamArchive(parse_address(text)))


def _allowed(character: str) -> str:
    return character if character.isascii() and (character.isalnum() or character in "-_") else "-"
