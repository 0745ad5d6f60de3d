"""Files of keys, and lists of clients."""

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


def test_both_halves_of_a_pair_are_their_owners_alone(tmp_path: Path) -> None:
    """A pair is written to two files that nobody else can read, and read again from them."""
    secret, public = make_key_files(tmp_path / "keys" / "laptop")
    assert (secret.name, public.name) == ("laptop.key", "laptop.pub")
    assert (secret.stat().st_mode & 0o777, public.stat().st_mode & 0o777 & ~0o022) == (0o600, 0o644)
    pair = read_key_pair(secret)
    assert read_public_key(public) == pair.public
    assert pair.secret not in public.read_text()


def test_keys_that_are_there_are_kept(tmp_path: Path) -> None:
    """A second pair of the same name is refused, and the first stays as it is."""
    secret, _ = make_key_files(tmp_path / "laptop")
    before = secret.read_text()
    with pytest.raises(UsageError, match="already exists"):
        make_key_files(tmp_path / "laptop")
    assert secret.read_text() == before


def test_a_folder_of_public_keys_is_a_list(tmp_path: Path) -> None:
    """A publisher takes its own pair, everybody in the folder, and who may only read, from the files."""
    own, _ = make_key_files(tmp_path / "cluster")
    make_key_files(tmp_path / "clients" / "laptop")
    make_key_files(tmp_path / "clients" / "wall", may_command=False)
    keys = read_server_keys(own, tmp_path / "clients", "own")
    laptop, wall = (read_public_key(tmp_path / "clients" / f"{name}.pub") for name in ("laptop", "wall"))
    assert keys.server == read_key_pair(own)
    assert keys.allowed == {"own", laptop, wall}
    assert keys.read_only == {wall}


def test_a_publisher_without_files_has_keys_of_its_own() -> None:
    """Without files each publisher has a new pair, and lets in nobody but the client of its connection file."""
    first, second = read_server_keys(None, None, "own"), read_server_keys(None, None, "own")
    assert first.server != second.server
    assert first.allowed == {"own"}
    assert not first.read_only


def test_the_keys_to_an_address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An address on TCP needs the file that the environment names; one on this host needs none."""
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
    with pytest.raises(KeyFileError, match="holds no publisher's key"):
        keys_to(ADDRESS)


def test_what_is_no_key_file_is_refused_by_name(tmp_path: Path) -> None:
    """A file or folder that is not there, or holds something else, is named in the error."""
    (tmp_path / "clients").mkdir()
    (tmp_path / "clients" / "bad.pub").write_text("{}")
    with pytest.raises(KeyFileError, match=r"bad\.pub holds no key"):
        read_server_keys(None, tmp_path / "clients", "own")
    with pytest.raises(KeyFileError, match="nobody of clients' public keys does not exist"):
        read_server_keys(None, tmp_path / "nobody", "own")
    with pytest.raises(KeyFileError, match="cannot be read"):
        read_server_keys(tmp_path / "missing.key", None, "own")


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=300) | st.just(b'{"public": 5}') | st.just(b"[" * 4000))
def test_any_bytes_raise_only_our_error(file: Path, data: bytes) -> None:
    """Whatever a key file holds, it is refused with our error, which does not repeat it."""
    file.write_bytes(data)
    with pytest.raises(TrainwireError) as refused:
        read_public_key(file)
    assert str(file) in str(refused.value)
