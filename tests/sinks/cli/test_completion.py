"""`trainwire completion`: what shells complete."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from trainwire_protocol.environment import sink_names
from trainwire_sinks.cli.app import run
from trainwire_sinks.runtime.exit_codes import ExitCode

PROGRAM = """
source "$1"; shift
COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); COMPREPLY=()
_trainwire
printf '%s\\n' "${COMPREPLY[@]}"
"""
"""What bash does when Tab is pressed after these words."""


@pytest.fixture(scope="module")
def script(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The script that the command prints for bash."""
    path = tmp_path_factory.mktemp("completion") / "trainwire.bash"
    with pytest.MonkeyPatch.context() as patch, path.open("w") as file:
        patch.setattr("sys.stdout", file)
        assert run(["completion", "bash"]) == 0
    return path


@pytest.mark.skipif(not shutil.which("bash"), reason="bash is not installed")
@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("", ["sink", "launch", "verify", "completion"]),
        ("sink ", sink_names()),
        ("sink prometheus RUN --p", ["--port"]),
        ("sink console RUN --level ", ["DEBUG", "WARNING"]),
        ("replay RUN --to ", sink_names()),
        ("launch --sink log", ["log-file"]),
        ("launch -- python tra", ["train.py"]),
        ("send RUN ", ["stop", "set"]),
        ("verify RU", ["RUN"]),
    ],
)
def test_bash_completes(script: Path, tmp_path: Path, words: str, expected: list[str]) -> None:
    """Commands, sinks, options and their values are completed, and files where a file is expected."""
    (tmp_path / "RUN").mkdir()
    (tmp_path / "train.py").touch()
    command = ["bash", "--norc", "-c", PROGRAM, "bash", script, "trainwire", *words.split(" ")]
    found = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=20, check=True)
    assert found.stderr == ""
    assert set(expected) <= set(found.stdout.split())


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_other_shells_have_a_script(capsys: pytest.CaptureFixture[str], shell: str) -> None:
    """The scripts for zsh and fish contain the commands and the sinks' own options."""
    assert run(["completion", shell]) == 0
    output = capsys.readouterr().out
    assert all(word in output for word in ("loss-file", "max-series", "verify"))


def test_printing_a_script_does_not_change_the_commands(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Commands work as usual after a script was printed."""
    assert run(["completion", "bash"]) == 0
    assert run(["verify", str(tmp_path)]) == ExitCode.USAGE
    assert "there is no run in" in capsys.readouterr().err
