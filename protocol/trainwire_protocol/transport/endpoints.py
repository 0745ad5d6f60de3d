"""Where a publisher's sockets are: in a private folder of this host, or on TCP, encrypted."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from trainwire_protocol.environment import LaunchEnvironment
from trainwire_protocol.errors import OptionError, UsageError
from trainwire_protocol.transport.auth import ClientKeys, KeyPair, ServerKeys
from trainwire_protocol.transport.key_files import read_server_keys

LONGEST_SOCKET_PATH: Final = 100
"""Longest path of an ipc socket, in bytes: the system's own limit is 107."""

LAST_PORT: Final = 65534
"""The port after it is needed too."""


BIND: Final = "TRAINWIRE_BIND"
"""Environment variable that holds the address to bind, where none is given."""


@dataclass(frozen=True)
class Tcp:
    """How a publisher is reached from other hosts, and by whom."""

    bind: str | None = None
    """`tcp://address:port` to listen at, with port 0 for any; the next port is used too. None: this host alone."""
    advertise: str | None = None
    """Host, or host:port, by which clients reach it, where it stands behind NAT or in a container."""
    server_key: Path | None = None
    """Key file of this publisher, made by `trainwire keygen`. None: new keys for each run."""
    clients: Path | None = None
    """Folder of the public keys of clients that may connect, beside those who can read the connection file."""

    @classmethod
    def from_environment(cls, given: str | Tcp | None = None) -> Tcp:
        """What is given, as an address or in full; else what `TRAINWIRE_BIND` and its like say.

        Raises:
            OptionError: it is neither an address nor a `Tcp`.
        """
        if isinstance(given, Tcp):
            return given
        if given is not None and not isinstance(given, str):
            raise OptionError(f"bind is {given!r:.60}: it has to be tcp://address:port, with port 0 for any")
        named = {name: os.environ.get(f"TRAINWIRE_{name.upper()}") or None for name in cls.__dataclass_fields__}
        server_key, clients = (Path(path) if path else None for path in (named["server_key"], named["clients"]))
        tcp = cls(given or named["bind"], named["advertise"], server_key, clients)
        return tcp if given else tcp._shared(LaunchEnvironment.read().local_rank)

    def _shared(self, local_rank: int) -> Tcp:
        """This for one of several processes of a host that have one environment: each has the two ports after the last.

        Raises:
            OptionError: an address is none.
        """
        if not self.bind or not local_rank:
            return self
        self.check()
        host, port = _parse(self.bind)
        name, advertised = _parse_advertised(self.advertise) if self.advertise else (None, None)
        return replace(
            self,
            bind=f"tcp://{host}:{port + 2 * local_rank if port else 0}",
            advertise=f"{name}:{advertised + 2 * local_rank}" if advertised else self.advertise,
        )

    def check(self) -> None:
        """See whether the addresses are such.

        Raises:
            OptionError: one is none.
        """
        bound = _parse(self.bind)[1] if self.bind else None
        advertised = _parse_advertised(self.advertise)[1] if self.advertise else None
        if advertised and self.bind and not bound:
            raise OptionError(f"advertise is {self.advertise!r}: with a port of its own it needs one in bind too")


@dataclass(frozen=True)
class Endpoints:
    """What a server binds, and what it needs for that."""

    publish: str
    request: str
    server_keys: ServerKeys | None = None
    client_keys: ClientKeys | None = None
    folder: Path | None = None
    """Holds the sockets' files; removed at the end."""
    advertise: str | None = None

    @classmethod
    def choose(cls, tcp: Tcp) -> Endpoints:
        """Endpoints on TCP, or in a private folder if there is nothing to bind.

        A port that is given is that of the PUB socket, and the next one that of the ROUTER socket.

        Raises:
            OptionError: an address is none.
            KeyFileError: there are no keys in the files that are named.
            UsageError: there is no folder for the sockets.
        """
        tcp.check()
        if not tcp.bind:
            folder = _socket_folder()
            return cls(f"ipc://{folder}/pub", f"ipc://{folder}/req", folder=folder)
        host, port = _parse(tcp.bind)
        client = KeyPair.make()
        keys = read_server_keys(tcp.server_key, tcp.clients, client.public)
        return cls(
            f"tcp://{host}:{port or '*'}",
            f"tcp://{host}:{port + 1 if port else '*'}",
            keys,
            ClientKeys(keys.server.public, client),
            advertise=tcp.advertise,
        )

    def advertised(self, publish: str, request: str) -> tuple[str, str]:
        """The endpoints that were bound as clients on other hosts know them.

        Those bound on all addresses are named by the host's name, Slurm's if it has one, unless something else is said.
        """
        if self.folder:
            return publish, request
        if self.advertise:
            host, port = _parse_advertised(self.advertise)
            ports = (port, port + 1) if port else (_port(publish), _port(request))
            return f"tcp://{host}:{ports[0]}", f"tcp://{host}:{ports[1]}"
        return _named(publish), _named(request)

    def remove(self) -> None:
        """Remove the sockets' folder."""
        if self.folder:
            shutil.rmtree(self.folder, ignore_errors=True)


def _parse(bind: str) -> tuple[str, int]:
    try:
        parts = urlsplit(bind)
        host, port = parts.hostname, parts.port
    except ValueError:
        host, port = None, None
    if not bind.startswith("tcp://") or host is None or port is None or port > LAST_PORT or parts.path:
        raise OptionError(f"bind is {bind!r}: it has to be tcp://address:port, with port 0 for any")
    return _bracketed(host), port


def _parse_advertised(advertise: str) -> tuple[str, int | None]:
    try:
        parts = urlsplit(f"tcp://{advertise}")
        host, port = parts.hostname, parts.port
    except ValueError:
        host, port = None, None
    if host is None or port == 0 or (port or 0) > LAST_PORT or parts.path or any(map(str.isspace, advertise)):
        raise OptionError(f"advertise is {advertise!r}: it has to be a host, or host:port")
    return _bracketed(host), port


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _port(endpoint: str) -> int:
    return int(endpoint.rpartition(":")[2])


def _named(endpoint: str) -> str:
    host = endpoint.removeprefix("tcp://").rpartition(":")[0]
    # A job may have been given another name for its host than that by which the cluster knows it.
    name = os.environ.get("SLURMD_NODENAME") or socket.gethostname()
    return f"tcp://{name}:{_port(endpoint)}" if host in ("0.0.0.0", "[::]") else endpoint


def _socket_folder() -> Path:
    """A folder for these sockets that only its owner can enter, with a path that is short enough."""
    for candidate in (os.environ.get("XDG_RUNTIME_DIR"), tempfile.gettempdir(), "/tmp"):
        if candidate and Path(candidate).is_absolute() and len(os.fsencode(candidate)) < LONGEST_SOCKET_PATH - 24:
            with contextlib.suppress(OSError):
                return Path(tempfile.mkdtemp(prefix="trainwire-", dir=candidate))
    raise UsageError("no folder for sockets can be written: set XDG_RUNTIME_DIR to one with a short path")
