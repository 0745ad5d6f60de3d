"""TARGET, as the commands take it that read runs: also one in a stream of NATS JetStream."""

from __future__ import annotations

import hashlib
import socket
from collections.abc import Collection
from dataclasses import dataclass, replace
from pathlib import Path

from trainwire_protocol.errors import OptionError
from trainwire_protocol.subscription.history import ArchivedHistory
from trainwire_protocol.subscription.target import Target
from trainwire_protocol.subscription.target import resolve_target as resolve_other
from trainwire_sinks.nats.address import SCHEMES, Address, parse_address
from trainwire_sinks.nats.history import StreamHistory


@dataclass(frozen=True)
class StreamArchive:
    """A run in a stream, for one reader."""

    address: Address
    reader: str | None = None

    def __str__(self) -> str:
        return str(self.address)

    def open(self, rank: int, channels: Collection[str]) -> ArchivedHistory:
        """The stream of one rank."""
        return StreamHistory(self.address, rank, channels, self.reader)


def resolve_target(text: str) -> Target:
    """Understand a TARGET as it was typed: a folder, a connection file, an address, or `nats://host/run`.

    Raises:
        OptionError: it begins with nats:// and goes on otherwise.
        TargetError: it names neither a folder nor a connection file nor an address, or cannot be looked at.
        ConnectionFileError: it names a file that is no connection file.
    """
    if is_stream(text):
        return Target(folder=None, archive=StreamArchive(parse_address(text)))
    return resolve_other(text)


def is_stream(text: str) -> bool:
    """Whether a TARGET, as it was typed, names a stream."""
    return text.partition("://")[0] in SCHEMES


def resolve_publisher(text: str, wants: str) -> Target:
    """Understand a TARGET for a command that a stream is not enough for; `wants` says what that command does.

    Raises:
        OptionError: it is a stream.
        TargetError: it names neither a folder nor a connection file nor an address, or cannot be looked at.
        ConnectionFileError: it names a file that is no connection file.
    """
    target = resolve_target(text)
    if target.archive:
        raise OptionError(
            f"{wants}, and {target} is a stream: give the run's folder, a connection file or tcp://host:port; "
            "streams are for sinks, watch, tail, export, compare and replay"
        )
    return target


def remembered(target: Target, sink: str, output: Path, rank: int) -> Target:
    """The target as a sink reads it: in a stream its place is remembered, by what it writes and where."""
    if not isinstance(target.archive, StreamArchive):
        return target
    identity = f"{socket.gethostname()}\0{output.resolve()}\0{target.archive.address.run}\0{rank}"
    reader = f"{sink[:64]}-{hashlib.sha256(identity.encode()).hexdigest()[:16]}"
    return replace(target, archive=replace(target.archive, reader="".join(map(_allowed, reader))))


def _allowed(character: str) -> str:
    return character if character.isascii() and (character.isalnum() or character in "-_") else "-"
