"""The connection file: private to its owner, and a clear error for anything invalid."""

from __future__ import annotations

import json
import socket
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from trainwire_protocol.errors import ConnectionFileError, ProtocolError, UnsupportedVersionError
from trainwire_protocol.process import ProcessIdentity
from trainwire_protocol.transport.auth import ClientKeys, KeyPair
from trainwire_protocol.transport.connection import (
    MAX_CONNECTION_FILE_BYTES,
    Connection,
    connection_path,
    read_connection,
    write_connection,
)
from trainwire_protocol.wire import VERSION

CONNECTION = Connection(
    "ipc:///tmp/pub", "ipc:///tmp/req", "digits-1", 0, 1, "a1b2", 0, ProcessIdentity.of_this_process()
)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """The path of rank 0's connection file."""
    return connection_path(tmp_path, 0)


def write_fields(path: Path, **changes: Any) -> None:
    write_connection(path, CONNECTION)
    path.write_text(json.dumps(json.loads(path.read_bytes()) | changes))


@pytest.mark.parametrize("keys", [None, ClientKeys(KeyPair.make().public, KeyPair.make())])
def test_round_trip(path: Path, keys: ClientKeys | None) -> None:
    """A connection is read as it was written, with and without keys."""
    connection = replace(CONNECTION, keys=keys)
    write_connection(path, connection)
    assert read_connection(path) == connection


def test_only_the_owner_can_read_it(path: Path) -> None:
    """The file has mode 0600, even if it replaces one of another mode."""
    path.write_text("old")
    path.chmod(0o644)
    write_connection(path, CONNECTION)
    assert path.stat().st_mode & 0o777 == 0o600


def test_repr_hides_the_secret_key() -> None:
    """The repr of a connection does not contain its secret key."""
    keys = ClientKeys(KeyPair.make().public, KeyPair.make())
    assert keys.client.secret not in repr(replace(CONNECTION, keys=keys))


def test_unknown_fields_are_ignored(path: Path) -> None:
    """Fields that this version does not know are ignored."""
    write_fields(path, mood="good", process={**CONNECTION.process._asdict(), "thread": 1})
    assert read_connection(path) == CONNECTION


def test_keys_are_optional(path: Path) -> None:
    """A file without keys is valid, as a publisher on `ipc` writes it."""
    write_fields(path)
    fields = json.loads(path.read_bytes())
    del fields["keys"]
    path.write_text(json.dumps(fields))
    assert read_connection(path) == CONNECTION


@pytest.mark.parametrize(
    "field", ["publish", "request", "run", "rank", "world_size", "session", "attempt", "process", "version"]
)
def test_missing_field_is_named(path: Path, field: str) -> None:
    """The error for a missing field names the file and the field."""
    write_fields(path)
    fields = json.loads(path.read_bytes())
    del fields[field]
    path.write_text(json.dumps(fields))
    with pytest.raises(ConnectionFileError, match=f"{path} is not a connection file: {field} is None"):
        read_connection(path)


@pytest.mark.parametrize(
    "changes",
    [
        {"publish": "inproc://a"},
        {"request": 1},
        {"run": "a/b"},
        {"rank": -1},
        {"attempt": 1.5},
        {"world_size": "1"},
        {"session": None},
        {"process": {"host": "a", "pid": "1", "started": "then"}},
        {"keys": {}},
        {"keys": {"server": "a" * 40, "public": "b" * 40, "secret": "c" * 39}},
        {"keys": {"server": "a" * 40, "public": "b" * 40, "secret": "\u00e4" * 40}},
        {"keys": {"server": "a" * 40, "public": "b" * 40, "secret": " " * 40}},
        {"keys": {"server": "#" * 40, "public": "b" * 40, "secret": "c" * 40}},
        {"version": 0},
        {"version": "1"},
    ],
)
def test_invalid_field_is_named(path: Path, changes: dict[str, Any]) -> None:
    """The error for an invalid field names the file and the field."""
    write_fields(path, **changes)
    with pytest.raises(ConnectionFileError, match=f"{path} is not a connection file: {next(iter(changes))} is"):
        read_connection(path)


def test_invalid_secret_is_not_shown(path: Path) -> None:
    """The error for invalid keys does not contain them."""
    write_fields(path, keys={"secret": "my-secret"})
    with pytest.raises(ConnectionFileError) as refused:
        read_connection(path)
    assert "my-secret" not in str(refused.value)


def test_newer_version_is_refused(path: Path) -> None:
    """A newer major version's file is refused with a hint to upgrade, even if its fields differ."""
    path.write_text(json.dumps({"version": VERSION + 1, "endpoints": {}}))
    with pytest.raises(UnsupportedVersionError, match="pip install --upgrade trainwire"):
        read_connection(path)


def test_unreadable_file_gives_the_reason(tmp_path: Path) -> None:
    """The error for a missing file or a folder contains the system's message."""
    with pytest.raises(ConnectionFileError, match="No such file"):
        read_connection(tmp_path / "missing")
    with pytest.raises(ConnectionFileError, match="Is a directory"):
        read_connection(tmp_path)


def test_endless_file_is_refused() -> None:
    """No more than the limit is read from a file."""
    with pytest.raises(ConnectionFileError, match="not JSON"):
        read_connection(Path("/dev/zero"))


def test_file_above_the_size_limit_is_refused(path: Path) -> None:
    """A file of `MAX_CONNECTION_FILE_BYTES` is read, and a larger one is refused."""
    write_fields(path, padding="")
    length = path.stat().st_size
    write_fields(path, padding="a" * (MAX_CONNECTION_FILE_BYTES - length))
    assert read_connection(path) == CONNECTION
    write_fields(path, padding="a" * (MAX_CONNECTION_FILE_BYTES - length + 1))
    with pytest.raises(ConnectionFileError):
        read_connection(path)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=200) | json_values.map(lambda value: json.dumps(value).encode()) | st.just(b"[" * 60_000))
def test_any_content_raises_protocol_error(path: Path, data: bytes) -> None:
    """Any invalid content raises ProtocolError, which names the file."""
    path.write_bytes(data)
    with pytest.raises(ProtocolError, match=str(path)):
        read_connection(path)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.dictionaries(st.sampled_from([*vars(CONNECTION)]), json_values, min_size=1))
def test_any_fields_are_read_or_refused(path: Path, changes: dict[str, Any]) -> None:
    """Any values of the fields are either read or raise ProtocolError."""
    write_fields(path, **changes)
    try:
        read_connection(path)
    except ProtocolError as error:
        assert str(error)


@pytest.fixture
def socket_file() -> Iterator[str]:
    """The endpoint of an existing socket."""
    with tempfile.TemporaryDirectory(prefix="tw-", dir="/tmp") as folder, socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"{folder}/socket")
        yield f"ipc://{folder}/socket"


def test_live_publisher_is_reachable(socket_file: str) -> None:
    """A live process on this host with its socket files is reachable."""
    assert replace(CONNECTION, publish=socket_file, request=socket_file).is_reachable()


def test_gone_publisher_is_not_reachable(socket_file: str) -> None:
    """A publisher is unreachable if its process is gone, a socket file is missing, or the files are on another host."""
    there = replace(CONNECTION, publish=socket_file, request=socket_file)
    assert not replace(there, process=there.process._replace(started="then")).is_reachable()
    assert not replace(there, request=f"{socket_file}-gone").is_reachable()
    assert not replace(there, process=there.process._replace(host="another-host")).is_reachable()


def test_tcp_publisher_on_another_host_is_reachable() -> None:
    """Over TCP, a process on another host counts as reachable, since its state is unknown."""
    process = ProcessIdentity("another-host", 1, "then")
    assert replace(CONNECTION, publish="tcp://a:1", request="tcp://a:2", process=process).is_reachable()
