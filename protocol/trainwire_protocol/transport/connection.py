"""The connection file: where a running trainer's sockets are, as Jupyter's kernels tell theirs.

It stands at `<run>/connection-rank<rank>.json`, for its owner's eyes alone, from when the sockets are bound.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from trainwire_protocol.errors import ConnectionFileError
from trainwire_protocol.journal.files import write_atomically
from trainwire_protocol.process import ProcessIdentity
from trainwire_protocol.transport.auth import ClientKeys, KeyPair, is_key
from trainwire_protocol.wire import VERSION, is_run_name, refuse_newer

MAX_CONNECTION_FILE_BYTES: Final = 64 << 10
"""Largest connection file that is read."""


@dataclass(frozen=True)
class Connection:
    """What a client needs to reach a publisher."""

    publish: str
    """ZeroMQ endpoint of the PUB socket."""
    request: str
    """ZeroMQ endpoint of the ROUTER socket."""
    run: str
    rank: int
    world_size: int
    session: str
    """Random: two processes never have the same."""
    attempt: int
    process: ProcessIdentity
    keys: ClientKeys | None = None
    """What a client needs over TCP: who can read the file can connect."""
    version: int = VERSION

    def is_reachable(self) -> bool:
        """False if nothing can be behind it: its process is gone, or its socket is a file of another host.

        `ipc` connects to nothing without a word, so this is asked first.
        """
        if self.process.is_gone():
            return False
        same_host = self.process.host == ProcessIdentity.of_this_process().host
        files = [endpoint.removeprefix("ipc://") for endpoint in (self.publish, self.request) if _is_ipc(endpoint)]
        return not files or (same_host and all(Path(file).is_socket() for file in files))


def connection_path(run_folder: Path, rank: int) -> Path:
    """Where the connection file of a rank stands."""
    return run_folder / f"connection-rank{rank}.json"


def write_connection(path: Path, connection: Connection) -> None:
    """Write the file, readable by its owner alone."""
    fields = asdict(connection) | {"process": connection.process._asdict(), "keys": _key_fields(connection.keys)}
    write_atomically(path, json.dumps(fields, indent=2).encode(), mode=0o600)


def read_connection(path: Path) -> Connection:
    """Read a connection file.

    Raises:
        ConnectionFileError: it cannot be read; says why.
        UnsupportedVersionError: a newer major version wrote it.
    """
    try:
        with path.open("rb") as file:
            fields = json.loads(file.read(MAX_CONNECTION_FILE_BYTES))
    except OSError as error:
        raise ConnectionFileError(f"the connection file {path} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError):
        raise ConnectionFileError(f"{path} is not a connection file: it is not JSON") from None
    return _from_fields(path, fields)


def _from_fields(path: Path, fields: Any) -> Connection:
    if not isinstance(fields, dict):
        raise ConnectionFileError(f"{path} is not a connection file: it holds no JSON object")
    if _is_version(fields.get("version")):
        # First of all: a newer version may have other fields.
        refuse_newer(fields["version"])
    problem = next((name for name, check in _CHECKS.items() if not check(fields.get(name))), None)
    if problem:
        # Keys are secrets, also where they are wrong.
        found = "not three keys" if problem == "keys" else f"{fields.get(problem)!r:.60}"
        raise ConnectionFileError(f"{path} is not a connection file: {problem} is {found}")
    known = {name: fields[name] for name in _CHECKS if name in fields}
    process = ProcessIdentity.from_fields(fields["process"])
    return Connection(**known | {"process": process, "keys": _keys(fields.get("keys"))})


def _key_fields(keys: ClientKeys | None) -> dict[str, str] | None:
    return keys and {"server": keys.server, "public": keys.client.public, "secret": keys.client.secret}


def _keys(fields: Any) -> ClientKeys | None:
    return fields and ClientKeys(fields["server"], KeyPair(fields["public"], fields["secret"]))


def _is_ipc(endpoint: str) -> bool:
    return endpoint.startswith("ipc://")


def is_endpoint(value: object) -> bool:
    """Whether this is an address that ZeroMQ can connect to here."""
    return isinstance(value, str) and _ENDPOINT.fullmatch(value) is not None


_ENDPOINT: Final = re.compile(r"ipc://[^\0]{1,107}|tcp://[^\s/:\0]+:[0-9]{1,5}|tcp://\[[0-9A-Fa-f:.%]+\]:[0-9]{1,5}")


def _is_count(value: object) -> bool:
    return type(value) is int and 0 <= value < 2**63


def _is_version(value: object) -> bool:
    return type(value) is int and value > 0


def _are_keys(value: object) -> bool:
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
    "keys": lambda value: value is None or _are_keys(value),
    "version": _is_version,
}
