"""Key files: `trainwire keygen` writes them, publishers and clients read them.

<name>.key    a key pair, and for a client the public key of its publisher; it stays where it was created
<name>.pub    the public key of that pair, and whether it may send commands; it goes into the publisher's list

A list is a folder of `.pub` files. Both kinds are JSON, and only the owner can read a `.key` file.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, Final

from trainwire_protocol.errors import KeyFileError, UsageError
from trainwire_protocol.journal.files import create_atomically, read_json_map
from trainwire_protocol.transport.auth import ClientKeys, KeyPair, ServerKeys, is_key

CLIENT_KEY: Final = "TRAINWIRE_KEY"
"""Environment variable with the path of a client's key file, for publishers given by their address."""

KEY_FILE_BYTES: Final = 4096
"""Maximum size of a key file, in bytes."""


def make_key_files(name: Path, server: Path | None = None, *, may_command: bool = True) -> tuple[Path, Path]:
    """Generate a key pair, write it to `<name>.key` and `<name>.pub`, and return the two paths.

    Args:
        name: path of both files without suffix; its folder is created if needed.
        server: `.pub` file of the publisher that the pair is for.
        may_command: whether the client may send commands.

    Raises:
        UsageError: one of the files exists already, or cannot be written.
        KeyFileError: `server` contains no key.
    """
    pair, secret, public = KeyPair.make(), name.with_name(f"{name.name}.key"), name.with_name(f"{name.name}.pub")
    secret_fields = {**pair._asdict(), "server": read_public_key(server)} if server else pair._asdict()
    public_fields = {"public": pair.public, "commands": may_command}
    try:
        name.parent.mkdir(parents=True, exist_ok=True)
        for path, fields, mode in ((secret, secret_fields, 0o600), (public, public_fields, 0o644)):
            if not create_atomically(path, json.dumps(fields, indent=2).encode(), mode=mode):
                raise UsageError(f"{path} already exists: choose another name, or remove it")
    except OSError as error:
        raise UsageError(f"the keys {name} cannot be written: {error.strerror}") from error
    return secret, public


def read_public_key(path: Path) -> str:
    """Return the public key in a `.pub` file.

    Raises:
        KeyFileError: the file contains none.
    """
    return str(_read_fields(path, "public")["public"])


def read_key_pair(path: Path) -> KeyPair:
    """Return the pair in a `.key` file.

    Raises:
        KeyFileError: the file contains none.
    """
    fields = _read_fields(path, "public", "secret")
    return KeyPair(fields["public"], fields["secret"])


def read_server_keys(server: Path | None, clients: Path | None, own_client: str) -> ServerKeys:
    """Return a publisher's keys: its pair from a `.key` file, and its clients from a folder of `.pub` files.

    Args:
        server: the publisher's `.key` file; None generates a new pair.
        clients: the folder; None allows only `own_client`.
        own_client: public key of the client in the connection file.

    Raises:
        KeyFileError: a file or the folder is missing, or a file contains no key.
    """
    pair = read_key_pair(server) if server else KeyPair.make()
    if clients and not clients.is_dir():
        raise KeyFileError(f"the folder {clients} of clients' public keys does not exist")
    rows = [_read_fields(path, "public") for path in sorted(clients.glob("*.pub"))] if clients else []
    allowed = frozenset({own_client, *(row["public"] for row in rows)})
    return ServerKeys(pair, allowed, frozenset(row["public"] for row in rows if row.get("commands") is not True))


def keys_to(endpoint: str) -> ClientKeys | None:
    """Return the keys to a publisher at an address: over TCP those in the file that `TRAINWIRE_KEY` names.

    Raises:
        KeyFileError: the variable is not set, or the file does not contain the keys.
    """
    path = os.environ.get(CLIENT_KEY)
    if not endpoint.startswith("tcp://"):
        return None
    if not path:
        raise KeyFileError(
            f"{endpoint} needs keys: set {CLIENT_KEY} to a key file, which trainwire keygen creates, or give "
            "the run's connection file"
        )
    fields = _read_fields(Path(path), "public", "secret")
    if not is_key(fields.get("server")):
        raise KeyFileError(
            f"{path} contains no publisher's key: create a key file with trainwire keygen NAME --server PUBLISHER.pub"
        )
    return ClientKeys(fields["server"], KeyPair(fields["public"], fields["secret"]))


def _read_fields(path: Path, *keys: str) -> dict[str, Any]:
    """Return the fields of a key file, which must contain these keys; no error message shows their values."""
    try:
        fields = read_json_map(path, KEY_FILE_BYTES)
    except OSError as error:
        raise KeyFileError(f"the key file {path} cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise KeyFileError(f"{path} is not a key file: {error}") from None
    missing = [key for key in keys if not is_key(fields.get(key))]
    if missing:
        raise KeyFileError(f"{path} contains no key {missing[0]!r}: create key files with trainwire keygen")
    return fields
