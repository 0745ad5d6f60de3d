"""Assigns endpoints to the ranks of a relay. After a restart, a rank gets the same endpoints if they are free."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from trainwire_protocol.transport.auth import ClientKeys
from trainwire_protocol.transport.connection import Connection
from trainwire_protocol.transport.endpoints import Endpoints, Tcp
from trainwire_protocol.transport.key_files import make_key_files, read_key_pair
from trainwire_protocol.transport.server import ServerContext

MAX_RANKS: Final = 10_000


class EndpointAllocator:
    """Assigns endpoints to ranks, and owns the ZeroMQ context and the keys of their sockets."""

    def __init__(self, tcp: Tcp, key_folder: Path) -> None:
        """Prepare the keys, or a folder for the sockets.

        Args:
            tcp: how other hosts reach the relay. The first rank gets the given port and the next; each further rank
                gets the two ports after these.
            key_folder: stores the keys, so that copies of a connection file stay valid when the relay is restarted.

        Raises:
            UsageError: an address is invalid, a key cannot be read, or a folder cannot be created.
        """
        if tcp.bind and tcp.server_key is None:
            tcp = dataclasses.replace(tcp, server_key=_stored_key(key_folder / "relay"))
        self._base = Endpoints.choose(tcp)
        if self._base.server_keys and self._base.client_keys:
            client = read_key_pair(_stored_key(key_folder / "client"))
            allowed = self._base.server_keys.allowed - {self._base.client_keys.client.public} | {client.public}
            self._base = dataclasses.replace(
                self._base,
                server_keys=self._base.server_keys._replace(allowed=allowed),
                client_keys=ClientKeys(self._base.client_keys.server, client),
            )
        self.context = ServerContext(self._base.server_keys)
        """The context of all sockets."""
        self._next_number = 0
        self._abandoned_folders: set[Path] = set()

    @property
    def client_keys(self) -> ClientKeys | None:
        """The keys that clients of any rank need; None without TCP."""
        return self._base.client_keys

    def candidates(self, previous: Connection | None) -> Iterator[Endpoints]:
        """Yield endpoints for one more rank, to be tried in order; those of the previous start come first."""
        if previous:
            yield from self._previous_endpoints(previous)
        while self._next_number < MAX_RANKS:
            number, self._next_number = self._next_number, self._next_number + 1
            yield self._numbered_endpoints(number)

    def close(self) -> None:
        """Close the context, whose sockets must be closed already, and remove the folders of the sockets."""
        self.context.close()
        self._base.remove()
        for folder in self._abandoned_folders:
            shutil.rmtree(folder, ignore_errors=True)

    def _previous_endpoints(self, previous: Connection) -> Iterator[Endpoints]:
        publish, request = previous.publish, previous.request
        if self._base.folder:
            folder = Path(publish.removeprefix("ipc://")).parent
            # A relay that was killed has left it behind. A folder of another user must not be trusted.
            with contextlib.suppress(OSError):
                if folder.name.startswith("trainwire-") and folder.stat().st_uid == os.geteuid():
                    self._abandoned_folders.add(folder)
                    yield dataclasses.replace(self._base, publish=publish, request=request)
        elif publish.startswith("tcp://") and _port(self._base.publish) is None and _port(self._base.advertise) is None:
            host = self._base.publish.rpartition(":")[0]
            ports = (endpoint.rpartition(":")[2] for endpoint in (publish, request))
            own_publish, own_request = (f"{host}:{port}" for port in ports)
            yield dataclasses.replace(self._base, publish=own_publish, request=own_request)

    def _numbered_endpoints(self, number: int) -> Endpoints:
        if self._base.folder:
            publish, request = (f"ipc://{self._base.folder}/{number}-{kind}" for kind in ("pub", "req"))
            return dataclasses.replace(self._base, publish=publish, request=request)
        first, advertised = _port(self._base.publish), _port(self._base.advertise)
        host, name = self._base.publish.rpartition(":")[0], (self._base.advertise or "").rpartition(":")[0]
        if first is None:
            return self._base
        publish, request = f"{host}:{first + 2 * number}", f"{host}:{first + 2 * number + 1}"
        advertise = self._base.advertise if advertised is None else f"{name}:{advertised + 2 * number}"
        return dataclasses.replace(self._base, publish=publish, request=request, advertise=advertise)


def _port(address: str | None) -> int | None:
    port = (address or "").rpartition(":")[2]
    return int(port) if port.isdecimal() else None


def _stored_key(name: Path) -> Path:
    """Return the `.key` file of this name; create it if it does not exist."""
    path = name.with_name(f"{name.name}.key")
    return path if path.exists() else make_key_files(name)[0]
