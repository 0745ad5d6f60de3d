"""Where a publisher binds its sockets: in a private folder of this host, or on TCP with encryption."""

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
from trainwire_protocol.transport.private_folder import make_private_folder

BIND: Final = "TRAINWIRE_BIND"
"""Environment variable with the address to bind to if none is given."""

LONGEST_SOCKET_PATH: Final = 100
"""Maximum length of the path of an ipc socket, in bytes; the system's limit is 107."""

LAST_PORT: Final = 65534
"""Highest port that can be given, since the next one is used too."""


@dataclass(frozen=True)
class Tcp:
    """How clients on other hosts reach a publisher, and which of them may connect."""

    bind: str | None = None
    """`tcp://address:port` to listen on, with port 0 for any; the next port is used too. None: only this host."""
    advertise: str | None = None
    """Host, or host:port, under which clients reach it, if it is behind NAT or in a container."""
    server_key: Path | None = None
    """Key file of this publisher, made by `trainwire keygen`. None: new keys for each run."""
    clients: Path | None = None
    """Folder with public keys of clients that may connect, besides those that can read the connection file."""

    @classmethod
    def from_environment(cls, given: str | Tcp | None = None) -> Tcp:
        """Return the given address or settings; without them, those in `TRAINWIRE_BIND` and the related variables.

        Raises:
            OptionError: the value is neither an address nor a `Tcp`.
        """
        if isinstance(given, Tcp):
            return given
        if given is not None and not isinstance(given, str):
            raise OptionError(f"bind is {given!r:.60}; it must be tcp://address:port, with port 0 for any")
        values = {name: os.environ.get(f"TRAINWIRE_{name.upper()}") or None for name in cls.__dataclass_fields__}
        server_key, clients = (Path(path) if path else None for path in (values["server_key"], values["clients"]))
        tcp = cls(given or values["bind"], values["advertise"], server_key, clients)
        return tcp if given else tcp._offset_by(LaunchEnvironment.read().local_rank)

    def check(self) -> None:
        """Check the addresses.

        Raises:
            OptionError: one is invalid.
        """
        bound = _parse_bind(self.bind)[1] if self.bind else None
        advertised = _parse_advertise(self.advertise)[1] if self.advertise else None
        if advertised and self.bind and not bound:
            raise OptionError(f"advertise is {self.advertise!r}; bind must then have a port too")

    def _offset_by(self, local_rank: int) -> Tcp:
        """Return a copy with the ports of a local rank, as all processes of a host read the same variables.

        Each rank has the two ports after those of the previous one.

        Raises:
            OptionError: an address is invalid.
        """
        if not self.bind or not local_rank:
            return self
        self.check()
        host, port = _parse_bind(self.bind)
        name, advertised = _parse_advertise(self.advertise) if self.advertise else (None, None)
        return replace(
            self,
            bind=f"tcp://{host}:{port + 2 * local_rank if port else 0}",
            advertise=f"{name}:{advertised + 2 * local_rank}" if advertised else self.advertise,
        )


@dataclass(frozen=True)
class Endpoints:
    """The endpoints that a server binds, and its keys."""

    publish: str
    request: str
    server_keys: ServerKeys | None = None
    client_keys: ClientKeys | None = None
    folder: Path | None = None
    """Contains the socket files; `remove` deletes it."""
    advertise: str | None = None

    @classmethod
    def choose(cls, tcp: Tcp) -> Endpoints:
        """Return endpoints on TCP, or in a new private folder if no address is to be bound.

        A port other than 0 is that of the PUB socket; the ROUTER socket gets the next one.

        Raises:
            OptionError: an address is invalid.
            KeyFileError: a key file is missing or contains no key.
            UsageError: the folder for the sockets cannot be created.
        """
        tcp.check()
        if not tcp.bind:
            folder = _make_socket_folder()
            return cls(f"ipc://{folder}/pub", f"ipc://{folder}/req", folder=folder)
        host, port = _parse_bind(tcp.bind)
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
        """Return the bound endpoints under the names by which clients on other hosts reach them.

        Without `advertise`, an endpoint on all addresses gets this host's name, or the one that Slurm has for it.
        """
        if self.folder:
            return publish, request
        if self.advertise:
            host, port = _parse_advertise(self.advertise)
            ports = (port, port + 1) if port else (_port(publish), _port(request))
            return f"tcp://{host}:{ports[0]}", f"tcp://{host}:{ports[1]}"
        return _with_host_name(publish), _with_host_name(request)

    def remove(self) -> None:
        """Remove the folder of the sockets."""
        if self.folder:
            shutil.rmtree(self.folder, ignore_errors=True)


def _parse_bind(bind: str) -> tuple[str, int]:
    try:
        parts = urlsplit(bind)
        host, port = parts.hostname, parts.port
    except ValueError:
        host, port = None, None
    if not bind.startswith("tcp://") or host is None or port is None or port > LAST_PORT or parts.path:
        raise OptionError(f"bind is {bind!r}; it must be tcp://address:port, with port 0 for any")
    return _bracketed(host), port


def _parse_advertise(advertise: str) -> tuple[str, int | None]:
    try:
        parts = urlsplit(f"tcp://{advertise}")
        host, port = parts.hostname, parts.port
    except ValueError:
        host, port = None, None
    if host is None or port == 0 or (port or 0) > LAST_PORT or parts.path or any(map(str.isspace, advertise)):
        raise OptionError(f"advertise is {advertise!r}; it must be a host, or host:port")
    return _bracketed(host), port


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _port(endpoint: str) -> int:
    return int(endpoint.rpartition(":")[2])


def _with_host_name(endpoint: str) -> str:
    host = endpoint.removeprefix("tcp://").rpartition(":")[0]
    # In a job the host's own name can differ from the one by which the cluster knows it.
    name = os.environ.get("SLURMD_NODENAME") or socket.gethostname()
    return f"tcp://{name}:{_port(endpoint)}" if host in ("0.0.0.0", "[::]") else endpoint


def _make_socket_folder() -> Path:
    """Create a folder that only its owner can enter, with a path short enough for sockets."""
    for candidate in (os.environ.get("XDG_RUNTIME_DIR"), tempfile.gettempdir(), "/tmp"):
        if candidate and Path(candidate).is_absolute() and len(os.fsencode(candidate)) < LONGEST_SOCKET_PATH - 24:
            with contextlib.suppress(OSError):
                return make_private_folder(candidate)
    raise UsageError("no folder for sockets can be created: set XDG_RUNTIME_DIR to a writable folder with a short path")
