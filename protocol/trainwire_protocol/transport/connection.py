"""The connection file `<run>/connection-rank<rank>.json`: where a running trainer's sockets are.

Like the connection file of a Jupyter kernel it is JSON, readable only by its owner, and written once the sockets are
bound.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from trainwire_protocol.errors import ConnectionFileError
from trainwire_protocol.journal.files import read_json_map, write_atomically
from trainwire_protocol.journal.run_folder import Attempt, journal_folder
from trainwire_protocol.process import ProcessIdentity
from trainwire_protocol.transport.auth import ClientKeys, KeyPair, is_key
from trainwire_protocol.wire import VERSION, is_run_name, refuse_newer

MAX_CONNECTION_FILE_BYTES: Final = 64 << 10
"""Maximum size of a connection file, in bytes."""

_ENDPOINT: Final = re.compile(r"ipc://[^\0]{1,107}|tcp://[^\s/:\0]+:[0-9]{1,5}|tcp://\[[0-9A-Fa-f:.%]+\]:[0-9]{1,5}")


@dataclass(frozen=True)
class Connection:
    """The contents of a connection file: what a client needs to reach a publisher."""

    publish: str
    """ZeroMQ endpoint of the PUB socket."""
    request: str
    """ZeroMQ endpoint of the ROUTER socket."""
    run: str
    rank: int
    world_size: int
    session: str
    """Random identifier of the publisher's session; no two processes have the same."""
    attempt: int
    process: ProcessIdentity
    keys: ClientKeys | None = None
    """Keys of a client over TCP: whoever can read the file can connect."""
    version: int = VERSION

    def is_reachable(self) -> bool:
        """Return False if the publisher's process is gone, or its socket is a file that is missing or on another host.

        Call it before connecting: ZeroMQ connects to an `ipc` endpoint that does not exist without an error.
        """
        if self.process.is_gone():
            return False
        endpoints = (self.publish, self.request)
        files = [endpoint.removeprefix("ipc://") for endpoint in endpoints if endpoint.startswith("ipc://")]
        is_same_host = self.process.host == ProcessIdentity.of_this_process().host
        return not files or (is_same_host and all(Path(file).is_socket() for file in files))


def connection_path(run_folder: Path, rank: int) -> Path:
    """Return the path of a rank's connection file."""
    return run_folder / f"connection-rank{rank}.json"


def write_connection(path: Path, connection: Connection) -> None:
    """Write a connection file, readable only by its owner."""
    keys = connection.keys
    fields = asdict(connection) | {
        "process": connection.process._asdict(),
        "keys": keys and {"server": keys.server, "public": keys.client.public, "secret": keys.client.secret},
    }
    write_atomically(path, json.dumps(fields, indent=2).encode(), mode=0o600)


def read_connection(path: Path) -> Connection:
    """Read a connection file.

    Raises:
        ConnectionFileError: it cannot be read, or is not a valid connection file.
        UnsupportedVersionError: a newer major version wrote it.
    """
    try:
        fields = read_json_map(path, MAX_CONNECTION_FILE_BYTES)
    except OSError as error:
        raise ConnectionFileError(f"the connection file {path} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise ConnectionFileError(f"{path} is not a connection file: {error}") from None
    if _is_version(fields.get("version")):
        # This must come first: a newer version may have other fields.
        refuse_newer(fields["version"])
    invalid = next((name for name, is_valid in _CHECKS.items() if not is_valid(fields.get(name))), None)
    if invalid:
        # Even an invalid key may contain a secret.
        found = "not a map of three keys" if invalid == "keys" else f"{fields.get(invalid)!r:.60}"
        raise ConnectionFileError(f"{path} is not a connection file: {invalid} is {found}")
    return _from_fields({name: fields[name] for name in _CHECKS if name in fields})


def read_connection_of(run_folder: Path, rank: int) -> Connection:
    """Read the connection file of a rank in a run's folder.

    Raises:
        ConnectionFileError: it cannot be read, is not a valid connection file, or belongs to the folder of which this
            one is a copy.
        UnsupportedVersionError: a newer major version wrote it.
    """
    connection = read_connection(connection_path(run_folder, rank))
    folder = journal_folder(run_folder, rank) / f"attempt-{connection.attempt}"
    lease = Attempt(connection.run, rank, connection.attempt, folder).read_lease()
    if lease and lease.copied_from is not None:
        raise ConnectionFileError(f"{run_folder} is a copy; its training records in {lease.copied_from}")
    return connection


def is_endpoint(value: object) -> bool:
    """Return whether a value is a ZeroMQ endpoint that a client can connect to."""
    return isinstance(value, str) and _ENDPOINT.fullmatch(value) is not None


def _from_fields(fields: dict[str, Any]) -> Connection:
    """Return the connection that valid fields describe."""
    keys = fields.get("keys")
    fields["process"] = ProcessIdentity.from_fields(fields["process"])
    fields["keys"] = keys and ClientKeys(keys["server"], KeyPair(keys["public"], keys["secret"]))
    return Connection(**fields)


def _is_count(value: object) -> bool:
    return type(value) is int and 0 <= value < 2**63


def _is_version(value: object) -> bool:
    return type(value) is int and value > 0


def _is_key_map(value: object) -> bool:
    return isinstance(value, dict) and all(is_key(value.get(name)) for name in ("server", "public", "secret"))


_CHECKS: Final[dict[str, Callable[[object], bool]]] = {
    "publish": is_endpoint,
    "request": is_endpoint,
    "run": is_run_name,
    "rank": _is_count,
    "world_size": _is_count,
    "session": lambda value: isinstance(value, str),
    "attempt": _is_count,
    "process": lambda value: ProcessIdentity.from_fields(value) is not None,
    "keys": lambda value: value is None or _is_key_map(value),
    "version": _is_version,
}
"""For each field, a function that returns whether a value is valid; None stands for a missing field."""
