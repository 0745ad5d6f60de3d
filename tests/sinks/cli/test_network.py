"""The commands `keygen` and `relay`, and `launch --bind`."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from trainwire_protocol.transport.key_files import read_key_pair, read_public_key
from trainwire_sinks.cli.app import run
from trainwire_sinks.runtime.exit_codes import ExitCode


def test_keygen_prints_paths_and_no_keys(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It prints the paths of the key files, and none of the keys."""
    assert run(["keygen", str(tmp_path / "cluster")]) == 0
    assert run(["keygen", str(tmp_path / "laptop"), "--server", str(tmp_path / "cluster.pub")]) == 0
    shown = "".join(capsys.readouterr())
    assert str(tmp_path / "laptop.pub") in shown
    pairs = [read_key_pair(tmp_path / f"{name}.key") for name in ("cluster", "laptop")]
    assert not [key for pair in pairs for key in pair if key in shown]
    server = json.loads((tmp_path / "laptop.key").read_text())["server"]
    assert server == read_public_key(tmp_path / "cluster.pub")


def test_keygen_marks_a_read_only_key(tmp_path: Path) -> None:
    """The public file says whether the key permits commands."""
    for name, options in (("a", []), ("b", ["--read-only"])):
        assert run(["keygen", str(tmp_path / name), *options]) == 0
    assert [json.loads((tmp_path / f"{name}.pub").read_text())["commands"] for name in "ab"] == [True, False]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["keygen", "{}/taken"], "already exists"),
        (["keygen", "{}/new", "--server", "{}/missing.pub"], "cannot be read"),
        (["keygen", "{}/file/new"], "cannot be written"),
        (["relay", "--output", "{}/copies"], "the sources are missing"),
        (["relay", "{}/nowhere/runs", "--output", "{}/copies"], "there is no folder"),
        (["relay", "http://host", "--output", "{}/copies"], "neither tcp://host:port nor"),
        (["relay", "tcp://localhost:1", "--output", "{}/copies"], "needs keys"),
        (["relay", "{}", "--output", "{}"], "name a source outside of it"),
        (["relay", "{}", "--output", "{}/copies", "--bind", "localhost"], "bind is 'localhost'"),
        (
            ["relay", "{}", "--output", "{}/copies", "--bind", "tcp://a:0", "--advertise", "b:1"],
            "bind must then have a port",
        ),
        (["relay", "{}", "--output", "{}/copies", "--give-up", "-1"], "--give-up"),
        (["launch", "--bind", "5600", "--", sys.executable], "bind is '5600'"),
    ],
)
def test_invalid_arguments(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
) -> None:
    """An invalid name, address or option is an error of one line that says what is wrong."""
    monkeypatch.delenv("TRAINWIRE_KEY", raising=False)
    (tmp_path / "file").write_text("")
    (tmp_path / "taken.key").write_text("")
    assert run([argument.format(tmp_path) for argument in arguments]) == ExitCode.USAGE
    error = capsys.readouterr().err
    assert message in error
    assert len(error.splitlines()) == 1


def test_an_output_that_cannot_be_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """If the relay's output folder cannot be created, it reports this and copies nothing."""
    (tmp_path / "file").write_text("")
    (tmp_path / "runs").mkdir()
    assert run(["relay", str(tmp_path / "runs"), "--output", str(tmp_path / "file" / "copies")]) == ExitCode.OUTPUT
    assert "cannot write the output relay" in capsys.readouterr().err


def test_launch_passes_the_bind_address_to_its_script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The address of `--bind` is in the script's environment."""
    monkeypatch.setenv("TRAINWIRE_BIND", "")
    code = f"import os; open({str(tmp_path / 'address')!r}, 'w').write(os.environ['TRAINWIRE_BIND'])"
    assert run(["launch", "--bind", "tcp://127.0.0.1:0", "--", sys.executable, "-c", code]) == 0
    assert (tmp_path / "address").read_text() == "tcp://127.0.0.1:0"
