"""`trainwire keygen`, `trainwire relay` and `trainwire launch --bind`, as they are typed."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from trainwire_protocol.transport.key_files import read_key_pair, read_public_key
from trainwire_sinks.cli import run
from trainwire_sinks.runtime.exit_codes import ExitCode


def test_keygen_shows_no_key(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It says where the keys are, and prints none of them."""
    assert run(["keygen", str(tmp_path / "cluster")]) == 0
    assert run(["keygen", str(tmp_path / "laptop"), "--server", str(tmp_path / "cluster.pub")]) == 0
    shown = "".join(capsys.readouterr())
    assert str(tmp_path / "laptop.pub") in shown
    pairs = [read_key_pair(tmp_path / f"{name}.key") for name in ("cluster", "laptop")]
    assert not [key for pair in pairs for key in pair if key in shown]
    server = json.loads((tmp_path / "laptop.key").read_text())["server"]
    assert server == read_public_key(tmp_path / "cluster.pub")


def test_keygen_marks_a_key_that_may_only_read(tmp_path: Path) -> None:
    """What a key may do stands in its public half."""
    for name, options in (("a", []), ("b", ["--read-only"])):
        assert run(["keygen", str(tmp_path / name), *options]) == 0
    assert [json.loads((tmp_path / f"{name}.pub").read_text())["commands"] for name in "ab"] == [True, False]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["keygen", "{}/taken"], "already exists"),
        (["keygen", "{}/new", "--server", "{}/missing.pub"], "cannot be read"),
        (["keygen", "{}/file/new"], "cannot be written"),
        (["relay", "--output", "{}/copies"], "relay what?"),
        (["relay", "{}/nowhere/runs", "--output", "{}/copies"], "there is no folder"),
        (["relay", "http://host", "--output", "{}/copies"], "neither tcp://host:port nor"),
        (["relay", "tcp://localhost:1", "--output", "{}/copies"], "needs keys"),
        (["relay", "{}", "--output", "{}"], "cannot be a source too"),
        (["relay", "{}", "--output", "{}/copies", "--bind", "localhost"], "bind is 'localhost'"),
        (["relay", "{}", "--output", "{}/copies", "--bind", "tcp://a:0", "--advertise", "b:1"], "needs one in bind"),
        (["relay", "{}", "--output", "{}/copies", "--give-up", "-1"], "--give-up"),
        (["launch", "--bind", "5600", "--", sys.executable], "bind is '5600'"),
    ],
)
def test_what_cannot_be_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: list[str], told: str
) -> None:
    """A wrong name, address or option is one line that says what is wrong."""
    monkeypatch.delenv("TRAINWIRE_KEY", raising=False)
    (tmp_path / "file").write_text("")
    (tmp_path / "taken.key").write_text("")
    assert run([argument.format(tmp_path) for argument in arguments]) == ExitCode.USAGE
    error = capsys.readouterr().err
    assert told in error
    assert len(error.splitlines()) == 1


def test_an_output_that_cannot_be_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A file in the place of the relay's folder is told, and nothing is begun."""
    (tmp_path / "file").write_text("")
    (tmp_path / "runs").mkdir()
    assert run(["relay", str(tmp_path / "runs"), "--output", str(tmp_path / "file" / "copies")]) == ExitCode.OUTPUT
    assert "cannot write the output relay" in capsys.readouterr().err


def test_launch_tells_its_script_where_to_listen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The address stands in the script's environment."""
    monkeypatch.setenv("TRAINWIRE_BIND", "")
    code = f"import os; open({str(tmp_path / 'told')!r}, 'w').write(os.environ['TRAINWIRE_BIND'])"
    assert run(["launch", "--bind", "tcp://127.0.0.1:0", "--", sys.executable, "-c", code]) == 0
    assert (tmp_path / "told").read_text() == "tcp://127.0.0.1:0"
