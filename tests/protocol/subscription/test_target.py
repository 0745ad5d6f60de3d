"""TARGET: a run's folder, a connection file or an address; and a clear line for what is none of them."""

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


def test_a_runs_folder(tmp_path: Path) -> None:
    """A folder is taken as a run's, whether it is there yet or not."""
    assert resolve_target(str(tmp_path)) == Target(folder=tmp_path)
    assert resolve_target(str(tmp_path / "later")) == Target(folder=tmp_path / "later")


@pytest.mark.parametrize("address", ["tcp://localhost:5555", "ipc:///tmp/socket"])
def test_an_address(address: str) -> None:
    """An address is that of the publisher's requests."""
    assert resolve_target(address) == Target(folder=None, request=address)
    assert str(resolve_target(address)) == address


def test_a_connection_file_in_its_runs_folder(tmp_path: Path) -> None:
    """A connection file beside its run's journal stands for the run's folder."""
    begin_attempt(tmp_path, 0, "session")
    path = connection_path(tmp_path, 0)
    write_connection(path, a_connection())
    assert resolve_target(str(path)) == Target(folder=tmp_path, request="tcp://localhost:2")


@pytest.mark.parametrize("name", ["connection-rank0.json", "copy.json"])
def test_a_copied_connection_file(tmp_path: Path, name: str) -> None:
    """A connection file that was copied away from its run is an address, with the keys to it."""
    write_connection(tmp_path / name, a_connection())
    target = resolve_target(str(tmp_path / name))
    assert target == Target(folder=None, request="tcp://localhost:2", connection=a_connection())


@pytest.mark.parametrize("address", ["http://localhost", "inproc://a", "tcp://", "://"])
def test_an_address_of_another_kind_is_refused(address: str) -> None:
    """An address that cannot be connected to is refused by what it begins with."""
    with pytest.raises(TargetError, match="is neither tcp://host:port nor ipc://path"):
        resolve_target(address)


def test_an_installed_package_adds_a_scheme(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A package named trainwire_* resolves the addresses of the schemes in its module target_schemes."""
    package = tmp_path / "trainwire_elsewhere"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "target_schemes.py").write_text(
        "from trainwire_protocol.subscription.target import Target\n"
        "RESOLVERS = {'shelf': lambda text: Target(folder=None, request='ipc://' + text[8:])}\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    assert resolve_target("shelf://runs/7") == Target(folder=None, request="ipc://runs/7")


def test_a_package_whose_schemes_cannot_be_loaded_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An error on import of a package's schemes names the package; endpoints do not need it."""
    package = tmp_path / "trainwire_broken"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "target_schemes.py").write_text("import trainwire_not_installed\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(TargetError, match=r"trainwire_broken\.target_schemes cannot be loaded: ModuleNotFoundError"):
        resolve_target("shelf://runs/7")
    assert resolve_target("tcp://localhost:5555").request


def test_an_address_without_its_beginning_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A host and a port are no folder that would be waited for, unless there is one of that name."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(TargetError, match=r"begins with tcp://, as in tcp://127\.0\.0\.1:5601"):
        resolve_target("127.0.0.1:5601")
    (tmp_path / "run:12").mkdir()
    assert resolve_target("run:12").folder == Path("run:12")


def test_a_folder_in_no_folder_is_refused(tmp_path: Path) -> None:
    """A path in a folder that is not there is a typing error, and not waited for."""
    with pytest.raises(TargetError, match=f"there is no folder {tmp_path / 'missing'}"):
        resolve_target(str(tmp_path / "missing" / "run"))


def test_a_file_that_is_no_connection_file_is_refused(tmp_path: Path) -> None:
    """Another file is refused as such."""
    (tmp_path / "loss.tsv").write_text("EPOCH\tLOSS\n")
    with pytest.raises(ConnectionFileError, match="not JSON"):
        resolve_target(str(tmp_path / "loss.tsv"))


def test_a_path_that_cannot_be_looked_at_is_refused() -> None:
    """A path that the system refuses is named with what it says."""
    with pytest.raises(TargetError, match="File name too long"):
        resolve_target("a" * 5000)


@given(st.text())
def test_any_text_is_a_target_or_refused(text: str) -> None:
    """Whatever was typed is a target, or refused with our error."""
    try:
        assert isinstance(resolve_target(text), Target)
    except TrainwireError as error:
        assert str(error)
