"""Which endpoints a relay gives to each rank of each run: the same again after it was killed, where they are free."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from trainwire_protocol.transport.auth import ClientKeys
from trainwire_protocol.transport.connection import Connection
from trainwire_protocol.transport.endpoints import Endpoints, Tcp
from trainwire_protocol.transport.key_files import make_key_files, read_key_pair
from trainwire_protocol.transport.server import ServerContext


class EndpointAllocator:
    """Gives out endpoints."""

    def __init__(self, tcp: Tcp, key_folder: Path) -> None:
        """Prepare keys, or a folder for sockets.

        Args:
            tcp: where the relay is reached from other hosts, if it is. A port that is given is that of the first rank;
                each further one gets the next two.
            key_folder: keeps the keys, so that a connection file that was copied is good as long as the relay is.

        Raises:
            UsageError: an address is none, or keys or a folder cannot be had.
        """
        if tcp.bind and tcp.server_key is None:
            tcp = dataclasses.replace(tcp, server_key=_own_key(key_folder / "relay"))
        self._own = Endpoints.choose(tcp)
        if self._own.server_keys and self._own.client_keys:
            client = read_key_pair(_own_key(key_folder / "client"))
            allowed = self._own.server_keys.allowed - {self._own.client_keys.client.public} | {client.public}
            self._own = dataclasses.replace(
                self._own,
                server_keys=self._own.server_keys._replace(allowed=allowed),
                client_keys=ClientKeys(self._own.client_keys.server, client),
            )
        self.context = ServerContext(self._own.server_keys)
        """For the sockets of all ranks."""
        self._given = 0
        self._left_behind: set[Path] = set()

    @property
    def client_keys(self) -> ClientKeys | None:
        """What clients of any rank need."""
        return self._own.client_keys

    def offers(self, previous: Connection | None) -> Iterator[Endpoints]:
        """Endpoints for one more rank, those that it had before first; to be tried one after the other."""
        if previous:
            yield from self._again(previous)
        while self._given < 10_000:
            number, self._given = self._given, self._given + 1
            yield self._numbered(number)

    def close(self) -> None:
        """Close the context, after all of its sockets, and remove the sockets' folders."""
        self.context.close()
        self._own.remove()
        for folder in self._left_behind:
            shutil.rmtree(folder, ignore_errors=True)

    def _again(self, previous: Connection) -> Iterator[Endpoints]:
        publish, request = previous.publish, previous.request
        if self._own.folder:
            folder = Path(publish.removeprefix("ipc://")).parent
            # Left behind by a relay that was killed; one that anybody else owns is a trap.
            with contextlib.suppress(OSError):
                if folder.name.startswith("trainwire-") and folder.stat().st_uid == os.geteuid():
                    self._left_behind.add(folder)
                    yield dataclasses.replace(self._own, publish=publish, request=request)
        elif publish.startswith("tcp://") and self._first_port() is None and self._advertised_port() is None:
            host = self._own.publish.rpartition(":")[0]
            ports = (endpoint.rpartition(":")[2] for endpoint in (publish, request))
            own_publish, own_request = (f"{host}:{port}" for port in ports)
            yield dataclasses.replace(self._own, publish=own_publish, request=own_request)

    def _numbered(self, number: int) -> Endpoints:
        if self._own.folder:
            publish, request = (f"ipc://{self._own.folder}/{number}-{kind}" for kind in ("pub", "req"))
            return dataclasses.replace(self._own, publish=publish, request=request)
        first, advertised = self._first_port(), self._advertised_port()
        host, name = self._own.publish.rpartition(":")[0], (self._own.advertise or "").rpartition(":")[0]
        if first is None:
            return self._own
        publish, request = f"{host}:{first + 2 * number}", f"{host}:{first + 2 * number + 1}"
        advertise = self._own.advertise if advertised is None else f"{name}:{advertised + 2 * number}"
        return dataclasses.replace(self._own, publish=publish, request=request, advertise=advertise)

    def _first_port(self) -> int | None:
        port = self._own.publish.rpartition(":")[2]
        return int(port) if port.isdecimal() else None

    def _advertised_port(self) -> int | None:
        port = (self._own.advertise or "").rpartition(":")[2]
        return int(port) if port.isdecimal() else None


def _own_key(name: Path) -> Path:
    """The `.key` file of this name, made now if it is not there."""
    path = name.with_name(f"{name.name}.key")
    return path if path.exists() else make_key_files(name)[0]
