"""Where a bus's sockets are: in a private folder of this host, or on TCP, encrypted."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import zmq

from trainwire_protocol.curve import ClientKeys, KeyPair, ServerKeys
from trainwire_protocol.errors import OptionError, UsageError
from trainwire_protocol.run_folder import Attempt
from trainwire_protocol.server import Server

MAX_SOCKET_PATH: Final = 100
"""Longest path of an ipc socket, in bytes: the system's own limit is 107."""

BIND: Final = "TRAINWIRE_BIND"
"""Environment variable that holds the address to bind, where none is given."""


@dataclass(frozen=True)
class Endpoints:
    """What a server binds, and what it needs for that."""

    publish: str
    request: str
    server_keys: ServerKeys | None = None
    client_keys: ClientKeys | None = None
    folder: Path | None = None
    """Holds the sockets' files; removed at the end."""

    @classmethod
    def choose(cls, bind: str | None) -> Endpoints:
        """Endpoints for `tcp://host:port`, where port 0 is one of the system's choice; for None in a private folder.

        A port that is given is that of the PUB socket, and the next one that of the ROUTER socket.

        Raises:
            OptionError: `bind` is no such address.
            UsageError: there is no folder for the sockets.
        """
        bind = bind or os.environ.get(BIND)
        if not bind:
            folder = _socket_folder()
            return cls(f"ipc://{folder}/pub", f"ipc://{folder}/req", folder=folder)
        host, port = _parse(bind)
        server, client = KeyPair.make(), KeyPair.make()
        return cls(
            f"tcp://{host}:{port or '*'}",
            f"tcp://{host}:{port + 1 if port else '*'}",
            ServerKeys(server, frozenset({client.public})),
            ClientKeys(server.public, client),
        )

    def open(
        self,
        attempt: Attempt,
        describe: Callable[[], Mapping[str, Any]],
        introduce: Callable[[], Mapping[str, Any]],
        high_water_mark: int,
    ) -> Server:
        """Bind a server to them.

        Raises:
            UsageError: they cannot be bound.
        """
        try:
            return Server(
                attempt, self.publish, self.request, describe, introduce, high_water_mark, self.server_keys
            )  # fmt: skip
        except zmq.ZMQError as error:
            raise UsageError(f"{self.publish} and {self.request} cannot be bound: {error}") from error

    def remove(self) -> None:
        """Remove the sockets' folder."""
        if self.folder:
            shutil.rmtree(self.folder, ignore_errors=True)


def advertised(endpoint: str) -> str:
    """The endpoint as clients on other hosts know it: one bound on all addresses is named by the host's name."""
    return endpoint.replace("tcp://0.0.0.0:", f"tcp://{socket.gethostname()}:")


def _parse(bind: str) -> tuple[str, int]:
    try:
        parts = urlsplit(bind)
        host, port = parts.hostname, parts.port
    except ValueError:
        host, port = None, None
    if not bind.startswith("tcp://") or host is None or port is None or port > 65534:
        raise OptionError(f"bind is {bind!r}: it has to be tcp://address:port, with port 0 for any")
    return (f"[{host}]" if ":" in host else host), port


def _socket_folder() -> Path:
    """A folder for this bus's sockets that only its owner can enter, with a path that is short enough."""
    for candidate in (os.environ.get("XDG_RUNTIME_DIR"), tempfile.gettempdir(), "/tmp"):
        if candidate and Path(candidate).is_absolute() and len(os.fsencode(candidate)) < MAX_SOCKET_PATH - 24:
            with contextlib.suppress(OSError):
                return Path(tempfile.mkdtemp(prefix="trainwire-", dir=candidate))
    raise UsageError("no folder for sockets can be written: set XDG_RUNTIME_DIR to one with a short path")
