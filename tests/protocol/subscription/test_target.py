"""TARGET: a run's folder, a connection file or an address; and a clear error for anything else."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainwire_protocol.errors import ConnectionFileError, TargetError, TrainwireError
from trainwire_protocol.journal.run_folder import begin_attempt
from trainwire_protocol.process import ProcessIdentity
from trainwire_protocol.subscription.target import Target, resolve_target
from trainwire_protocol.transport.connection import Connection, connection_path, write_connection


def a_connection() -> Connection:
    process = ProcessIdentity.of_this_process()
    return Connection("tcp://localhost:1", "tcp://localhost:2", "digits-1", 0, 1, "a1b2", 0, process)


def test_run_folder(tmp_path: Path) -> None:
    """A folder is a run's folder, even if it does not exist yet."""
    assert resolve_target(str(tmp_path)) == Target(folder=tmp_path)
    assert resolve_target(str(tmp_path / "later")) == Target(folder=tmp_path / "later")


@pytest.mark.parametrize("address", ["tcp://localhost:5555", "ipc:///tmp/socket"])
def test_address(address: str) -> None:
    """An address is the publisher's request endpoint."""
    assert resolve_target(address) == Target(folder=None, request=address)
    assert str(resolve_target(address)) == address


def test_connection_file_in_its_run_folder(tmp_path: Path) -> None:
    """A connection file beside its run's journal names the run's folder."""
    begin_attempt(tmp_path, 0, "session")
    path = connection_path(tmp_path, 0)
    write_connection(path, a_connection())
    assert resolve_target(str(path)) == Target(folder=tmp_path, request="tcp://localhost:2")


@pytest.mark.parametrize("name", ["connection-rank0.json", "copy.json"])
def test_copied_connection_file(tmp_path: Path, name: str) -> None:
    """A connection file outside its run's folder names the publisher, with the keys to it."""
    write_connection(tmp_path / name, a_connection())
    target = resolve_target(str(tmp_path / name))
    assert target == Target(folder=None, request="tcp://localhost:2", connection=a_connection())


@pytest.mark.parametrize("address", ["http://localhost", "inproc://a", "tcp://", "://"])
def test_invalid_address_is_refused(address: str) -> None:
    """An address that is not a valid endpoint raises TargetError."""
    with pytest.raises(TargetError, match="is neither tcp://host:port nor ipc://path"):
        resolve_target(address)


def install(folder: Path, package: str, schemes: str) -> None:
    """Make a package with this text as its module `target_schemes`."""
    (folder / package).mkdir()
    (folder / package / "__init__.py").touch()
    (folder / package / "target_schemes.py").write_text(schemes)


SHELF = """
from trainwire_protocol.subscription.target import Target
RESOLVERS = {"shelf": lambda text: Target(folder=None, request="ipc://" + text[8:])}
"""


def test_installed_package_adds_a_scheme(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A package named trainwire_* resolves the addresses of the schemes in its module target_schemes."""
    install(tmp_path, "trainwire_shelf", SHELF)
    monkeypatch.syspath_prepend(tmp_path)
    assert resolve_target("shelf://runs/7") == Target(folder=None, request="ipc://runs/7")


def test_broken_package_affects_only_its_own_schemes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error for an unknown scheme names a package that cannot be imported; other schemes are resolved."""
    install(tmp_path, "trainwire_broken", "import trainwire_not_installed")
    install(tmp_path, "trainwire_zshelf", SHELF)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(TargetError, match=r"trainwire_broken\.target_schemes cannot be loaded: ModuleNotFoundError"):
        resolve_target("drawer://runs/7")
    assert resolve_target("shelf://runs/7").request
    assert resolve_target("tcp://localhost:5555").request


def test_address_without_scheme_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A host and port without tcp:// are refused, unless a folder has that name."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(TargetError, match=r"begins with tcp://, as in tcp://127\.0\.0\.1:5601"):
        resolve_target("127.0.0.1:5601")
    (tmp_path / "run:12").mkdir()
    assert resolve_target("run:12").folder == Path("run:12")


def test_folder_without_parent_is_refused(tmp_path: Path) -> None:
    """A path whose parent folder does not exist is refused."""
    with pytest.raises(TargetError, match=f"there is no folder {tmp_path / 'missing'}"):
        resolve_target(str(tmp_path / "missing" / "run"))


def test_other_file_is_refused(tmp_path: Path) -> None:
    """A file that is not a connection file raises ConnectionFileError."""
    (tmp_path / "loss.tsv").write_text("EPOCH\tLOSS\n")
    with pytest.raises(ConnectionFileError, match="not JSON"):
        resolve_target(str(tmp_path / "loss.tsv"))


def test_inaccessible_path_is_refused() -> None:
    """The error for a path that cannot be accessed contains the system's message."""
    with pytest.raises(TargetError, match="File name too long"):
        resolve_target("a" * 5000)


@given(st.text())
def test_any_text_is_a_target_or_refused(text: str) -> None:
    """Any text is either a target or raises TrainwireError."""
    try:
        assert isinstance(resolve_target(text), Target)
    except TrainwireError as error:
        assert str(error)
