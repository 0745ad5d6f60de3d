"""The connection file: for its owner's eyes, and a clear line for whatever is not one."""

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
    """Where a connection file of rank 0 stands."""
    return connection_path(tmp_path, 0)


def write_fields(path: Path, **changes: Any) -> None:
    write_connection(path, CONNECTION)
    path.write_text(json.dumps(json.loads(path.read_bytes()) | changes))


@pytest.mark.parametrize("keys", [None, ClientKeys(KeyPair.make().public, KeyPair.make())])
def test_a_connection_comes_back_as_it_was(path: Path, keys: ClientKeys | None) -> None:
    """What was written is read, with keys and without."""
    connection = replace(CONNECTION, keys=keys)
    write_connection(path, connection)
    assert read_connection(path) == connection


def test_only_its_owner_can_read_it(path: Path) -> None:
    """The file has mode 0600, also where one of another mode stood before."""
    path.write_text("old")
    path.chmod(0o644)
    write_connection(path, CONNECTION)
    assert path.stat().st_mode & 0o777 == 0o600


def test_secrets_are_not_shown() -> None:
    """What is printed of a connection does not hold its secret key."""
    keys = ClientKeys(KeyPair.make().public, KeyPair.make())
    assert keys.client.secret not in repr(replace(CONNECTION, keys=keys))


def test_fields_of_later_versions_are_skipped(path: Path) -> None:
    """A file with fields that this version does not know is read."""
    write_fields(path, mood="good", process={**CONNECTION.process._asdict(), "thread": 1})
    assert read_connection(path) == CONNECTION


def test_a_file_without_keys_is_read(path: Path) -> None:
    """Keys may be left out, as by a publisher that serves `ipc` alone."""
    write_fields(path)
    fields = json.loads(path.read_bytes())
    del fields["keys"]
    path.write_text(json.dumps(fields))
    assert read_connection(path) == CONNECTION


@pytest.mark.parametrize(
    "field", ["publish", "request", "run", "rank", "world_size", "session", "attempt", "process", "version"]
)
def test_a_missing_field_is_named(path: Path, field: str) -> None:
    """A file without a field says which file it is, and which field is missing."""
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
def test_a_wrong_field_is_named(path: Path, changes: dict[str, Any]) -> None:
    """A field that holds what it cannot is named."""
    write_fields(path, **changes)
    with pytest.raises(ConnectionFileError, match=f"{path} is not a connection file: {next(iter(changes))} is"):
        read_connection(path)


def test_a_secret_that_is_wrong_is_not_shown(path: Path) -> None:
    """The message about wrong keys does not hold them."""
    write_fields(path, keys={"secret": "my-secret"})
    with pytest.raises(ConnectionFileError) as refused:
        read_connection(path)
    assert "my-secret" not in str(refused.value)


def test_a_newer_version_is_refused_with_what_to_install(path: Path) -> None:
    """A newer major version's file is refused as such, even if its fields are others."""
    path.write_text(json.dumps({"version": VERSION + 1, "endpoints": {}}))
    with pytest.raises(UnsupportedVersionError, match="pip install --upgrade trainwire"):
        read_connection(path)


def test_a_file_that_is_not_there_or_a_folder_says_so(tmp_path: Path) -> None:
    """What cannot be read is named with what the system says."""
    with pytest.raises(ConnectionFileError, match="No such file"):
        read_connection(tmp_path / "missing")
    with pytest.raises(ConnectionFileError, match="Is a directory"):
        read_connection(tmp_path)


def test_an_endless_file_is_not_read_to_its_end() -> None:
    """No more than the limit is read of a file."""
    with pytest.raises(ConnectionFileError, match="not JSON"):
        read_connection(Path("/dev/zero"))


def test_a_file_past_the_limit_is_refused(path: Path) -> None:
    """A file larger than `MAX_CONNECTION_FILE_BYTES` is none, and one that just fits is."""
    write_fields(path, padding="")
    length = path.stat().st_size
    write_fields(path, padding="a" * (MAX_CONNECTION_FILE_BYTES - length))
    assert read_connection(path) == CONNECTION
    write_fields(path, padding="a" * (MAX_CONNECTION_FILE_BYTES - length + 1))
    with pytest.raises(ConnectionFileError):
        read_connection(path)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=200) | json_values.map(lambda value: json.dumps(value).encode()) | st.just(b"[" * 60_000))
def test_any_file_raises_only_our_error(path: Path, data: bytes) -> None:
    """Whatever bytes the file holds, the error is ours, and names it."""
    path.write_bytes(data)
    with pytest.raises(ProtocolError, match=str(path)):
        read_connection(path)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.dictionaries(st.sampled_from([*vars(CONNECTION)]), json_values, min_size=1))
def test_any_fields_are_read_or_refused(path: Path, changes: dict[str, Any]) -> None:
    """Whatever its fields hold, a file is read or refused with our error."""
    write_fields(path, **changes)
    try:
        read_connection(path)
    except ProtocolError as error:
        assert str(error)


@pytest.fixture
def socket_file() -> Iterator[str]:
    """The endpoint of a socket that is there."""
    with tempfile.TemporaryDirectory(prefix="tw-", dir="/tmp") as folder, socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"{folder}/socket")
        yield f"ipc://{folder}/socket"


def test_a_publisher_that_is_there_is_reachable(socket_file: str) -> None:
    """A live process of this host with its socket files can be reached."""
    assert replace(CONNECTION, publish=socket_file, request=socket_file).is_reachable()


def test_a_publisher_that_cannot_be_there_is_not_reachable(socket_file: str) -> None:
    """One whose process is gone, whose socket file is missing, or whose files are another host's cannot be reached."""
    there = replace(CONNECTION, publish=socket_file, request=socket_file)
    assert not replace(there, process=there.process._replace(started="then")).is_reachable()
    assert not replace(there, request=f"{socket_file}-gone").is_reachable()
    assert not replace(there, process=there.process._replace(host="another-host")).is_reachable()


def test_a_tcp_publisher_of_another_host_may_be_reachable() -> None:
    """Over TCP, a process that cannot be looked at may be there."""
    process = ProcessIdentity("another-host", 1, "then")
    assert replace(CONNECTION, publish="tcp://a:1", request="tcp://a:2", process=process).is_reachable()
