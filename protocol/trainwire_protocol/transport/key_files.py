"""Files that hold keys: `trainwire keygen` writes them, publishers and clients read them.

<name>.key    a pair of keys, and for a client the public key of the publisher it is for: stays where it was made
<name>.pub    the public key of that pair, and whether it may send commands: goes onto the publisher's list

A list is a folder of `.pub` files. All are JSON, for their owner's eyes alone.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, Final

from trainwire_protocol.errors import KeyFileError, UsageError
from trainwire_protocol.journal.files import create_atomically
from trainwire_protocol.transport.auth import ClientKeys, KeyPair, ServerKeys, is_key

CLIENT_KEY: Final = "TRAINWIRE_KEY"
"""Environment variable that names a client's key file, for publishers that are named by their address."""

KEY_FILE_BYTES: Final = 4096
"""Largest key file that is read."""


def make_key_files(name: Path, server: Path | None = None, *, may_command: bool = True) -> tuple[Path, Path]:
    """Write a new pair to `<name>.key` and `<name>.pub`, and return these two.

    Args:
        name: both files' path, without suffix; its folder is made.
        server: `.pub` file of the publisher that the pair is to be used with.
        may_command: whether the public key may send commands.

    Raises:
        UsageError: one of the files is there already, or cannot be written.
        KeyFileError: `server` holds no key.
    """
    pair, secret, public = KeyPair.make(), name.with_name(f"{name.name}.key"), name.with_name(f"{name.name}.pub")
    private = {**pair._asdict(), "server": read_public_key(server)} if server else pair._asdict()
    try:
        name.parent.mkdir(parents=True, exist_ok=True)
        told = {"public": pair.public, "commands": may_command}
        for path, fields, mode in ((secret, private, 0o600), (public, told, 0o644)):
            if not create_atomically(path, json.dumps(fields, indent=2).encode(), mode=mode):
                raise UsageError(f"{path} is there already: choose another name, or remove it")
    except OSError as error:
        raise UsageError(f"the keys {name} cannot be written: {error.strerror}") from error
    return secret, public


def read_public_key(path: Path) -> str:
    """The public key in a `.pub` file.

    Raises:
        KeyFileError: it holds none.
    """
    return str(_read(path, "public")["public"])


def read_key_pair(path: Path) -> KeyPair:
    """The pair in a `.key` file.

    Raises:
        KeyFileError: it holds none.
    """
    fields = _read(path, "public", "secret")
    return KeyPair(fields["public"], fields["secret"])


def read_server_keys(server: Path | None, clients: Path | None, own_client: str) -> ServerKeys:
    """What a publisher needs: its pair from a `.key` file, and who is in a folder of `.pub` files.

    Args:
        server: the publisher's `.key` file; without one it gets a new pair.
        clients: the folder.
        own_client: public key of the client that the connection file speaks for.

    Raises:
        KeyFileError: one of the files holds no key, or is not there.
    """
    pair = read_key_pair(server) if server else KeyPair.make()
    listed = [_read(path, "public") for path in _list(clients)] if clients else []
    allowed = frozenset({own_client, *(fields["public"] for fields in listed)})
    return ServerKeys(pair, allowed, frozenset(row["public"] for row in listed if row.get("commands") is not True))


def keys_to(endpoint: str) -> ClientKeys | None:
    """The keys to a publisher of which nothing but its address is known: those that `TRAINWIRE_KEY` names, over TCP.

    Raises:
        KeyFileError: the variable names no file, or one that does not hold the keys.
    """
    named = os.environ.get(CLIENT_KEY)
    if not endpoint.startswith("tcp://"):
        return None
    if not named:
        raise KeyFileError(f"{endpoint} needs keys: set {CLIENT_KEY} to a key file, or name a connection file")
    fields = _read(Path(named), "public", "secret")
    if not is_key(fields.get("server")):
        raise KeyFileError(f"{named} is for no publisher: make one with trainwire keygen NAME --server PUBLISHER.pub")
    return ClientKeys(fields["server"], KeyPair(fields["public"], fields["secret"]))


def _list(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise KeyFileError(f"there is no folder {folder} of clients' public keys")
    return sorted(folder.glob("*.pub"))


def _read(path: Path, *names: str) -> dict[str, Any]:
    """The fields of a key file, of which these are keys; no message tells what they hold."""
    try:
        with path.open("rb") as file:
            fields = json.loads(file.read(KEY_FILE_BYTES))
    except OSError as error:
        raise KeyFileError(f"the key file {path} cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError):
        raise KeyFileError(f"{path} is no key file: it is not JSON") from None
    missing = [name for name in names if not isinstance(fields, dict) or not is_key(fields.get(name))]
    if missing:
        raise KeyFileError(f"{path} holds no key {missing[0]!r}: trainwire keygen makes key files")
    return dict(fields)
