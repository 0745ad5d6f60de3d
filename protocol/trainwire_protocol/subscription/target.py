"""TARGET, as every command takes it: a run's folder, a connection file, or an address."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol

from trainwire_protocol.errors import TargetError
from trainwire_protocol.journal.run_folder import list_attempts
from trainwire_protocol.transport.connection import Connection, connection_path, is_endpoint, read_connection

if TYPE_CHECKING:
    from trainwire_protocol.subscription.history import ArchivedHistory

_HOST_AND_PORT: Final = re.compile(r"[\w.-]+:[0-9]{2,5}")


class Archive(Protocol):
    """A log that holds runs for readers: they get all that it has, and what comes, as history."""

    def open(self, rank: int, channels: Collection[str]) -> ArchivedHistory:
        """The stream of one rank."""


@dataclass(frozen=True)
class Target:
    """A run, by its folder, by the address of its publisher's requests, or by both."""

    folder: Path | None
    """The run's folder, from which journal and connection file are read; it may not be there yet."""
    request: str | None = None
    """ZeroMQ endpoint of the publisher's ROUTER socket."""
    connection: Connection | None = None
    """What a connection file said that stands in no run's folder: a copy, on another host."""
    archive: Archive | None = None
    """A log that holds the run; then there is neither folder nor publisher."""

    def __str__(self) -> str:
        return str(self.folder or self.request or self.archive)


def resolve_target(text: str) -> Target:
    """Understand a TARGET as it was typed.

    Raises:
        TargetError: it names neither a folder nor a connection file nor an address, or cannot be looked at.
        ConnectionFileError: it names a file that is no connection file.
    """
    if "://" in text:
        if not is_endpoint(text):
            raise TargetError(f"the address {text!r} is neither tcp://host:port nor ipc://path")
        return Target(folder=None, request=text)
    try:
        return _from_path(Path(text))
    except (OSError, ValueError) as error:
        raise TargetError(f"the target {text!r:.200} cannot be looked at: {error}") from error


def _from_path(path: Path) -> Target:
    if path.is_file():
        return _from_file(path)
    if not path.exists() and _HOST_AND_PORT.fullmatch(str(path)):
        raise TargetError(f"there is no folder {path}, and an address begins with tcp://: tcp://{path}")
    if not path.exists() and not path.absolute().parent.exists():
        raise TargetError(f"there is no folder {path.absolute().parent} that a run {path.name!r} could be in")
    return Target(folder=path)


def _from_file(path: Path) -> Target:
    connection = read_connection(path)
    folder = path.absolute().parent
    if path.name == connection_path(folder, connection.rank).name and list_attempts(folder, connection.rank):
        return Target(folder=folder, request=connection.request)
    return Target(folder=None, request=connection.request, connection=connection)
