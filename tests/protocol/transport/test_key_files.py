"""Key files, and lists of clients."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from trainwire_protocol.errors import KeyFileError, TrainwireError, UsageError
from trainwire_protocol.transport.auth import ClientKeys
from trainwire_protocol.transport.key_files import (
    keys_to,
    make_key_files,
    read_key_pair,
    read_public_key,
    read_server_keys,
)

ADDRESS = "tcp://localhost:5555"


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("keys") / "bad.pub"


def test_key_files_are_written_and_read(tmp_path: Path) -> None:
    """A pair is written to two files and read back; only the owner can read the secret key."""
    secret, public = make_key_files(tmp_path / "keys" / "laptop")
    assert (secret.name, public.name) == ("laptop.key", "laptop.pub")
    assert (secret.stat().st_mode & 0o777, public.stat().st_mode & 0o777 & ~0o022) == (0o600, 0o644)
    pair = read_key_pair(secret)
    assert read_public_key(public) == pair.public
    assert pair.secret not in public.read_text()


def test_existing_keys_are_kept(tmp_path: Path) -> None:
    """A second pair of the same name is refused, and the first is not changed."""
    secret, _ = make_key_files(tmp_path / "laptop")
    before = secret.read_text()
    with pytest.raises(UsageError, match="already exists"):
        make_key_files(tmp_path / "laptop")
    assert secret.read_text() == before


def test_server_keys_from_files(tmp_path: Path) -> None:
    """A publisher reads its own pair, the allowed clients and the read-only ones from files."""
    own, _ = make_key_files(tmp_path / "cluster")
    make_key_files(tmp_path / "clients" / "laptop")
    make_key_files(tmp_path / "clients" / "wall", may_command=False)
    keys = read_server_keys(own, tmp_path / "clients", "own")
    laptop, wall = (read_public_key(tmp_path / "clients" / f"{name}.pub") for name in ("laptop", "wall"))
    assert keys.server == read_key_pair(own)
    assert keys.allowed == {"own", laptop, wall}
    assert keys.read_only == {wall}


def test_server_keys_without_files() -> None:
    """Without files each publisher gets a new pair, and allows only the client of its connection file."""
    first, second = read_server_keys(None, None, "own"), read_server_keys(None, None, "own")
    assert first.server != second.server
    assert first.allowed == {"own"}
    assert not first.read_only


def test_keys_to_an_address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A TCP address needs the key file that TRAINWIRE_KEY names; an ipc address needs none."""
    monkeypatch.delenv("TRAINWIRE_KEY", raising=False)
    assert keys_to("ipc:///tmp/socket") is None
    with pytest.raises(KeyFileError, match="TRAINWIRE_KEY"):
        keys_to(ADDRESS)
    _, server = make_key_files(tmp_path / "cluster")
    secret, _ = make_key_files(tmp_path / "laptop", server)
    monkeypatch.setenv("TRAINWIRE_KEY", str(secret))
    assert keys_to(ADDRESS) == ClientKeys(read_public_key(server), read_key_pair(secret))
    other, _ = make_key_files(tmp_path / "other")
    monkeypatch.setenv("TRAINWIRE_KEY", str(other))
    with pytest.raises(KeyFileError, match="contains no publisher's key"):
        keys_to(ADDRESS)


def test_invalid_key_file_is_named(tmp_path: Path) -> None:
    """The error names a file or folder that is missing or invalid."""
    (tmp_path / "clients").mkdir()
    (tmp_path / "clients" / "bad.pub").write_text("{}")
    with pytest.raises(KeyFileError, match=r"bad\.pub contains no key"):
        read_server_keys(None, tmp_path / "clients", "own")
    with pytest.raises(KeyFileError, match="nobody of clients' public keys does not exist"):
        read_server_keys(None, tmp_path / "nobody", "own")
    with pytest.raises(KeyFileError, match="cannot be read"):
        read_server_keys(tmp_path / "missing.key", None, "own")


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=300) | st.just(b'{"public": 5}') | st.just(b"[" * 4000))
def test_any_content_raises_trainwire_error(file: Path, data: bytes) -> None:
    """Any invalid content of a key file raises TrainwireError, which names the file."""
    file.write_bytes(data)
    with pytest.raises(TrainwireError) as refused:
        read_public_key(file)
    assert str(file) in str(refused.value)
