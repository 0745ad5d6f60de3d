"""The errors of a command line that is nearly right name what is missing or was meant."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from support.recorder import Recorder

from trainwire_protocol.events import Event
from trainwire_sinks.cli.app import run
from trainwire_sinks.runtime.exit_codes import ExitCode
from trainwire_sinks.testing.check_sink import sample_run

WriteRun = Callable[..., Path]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("send", "TARGET is missing: give a run's folder, a connection file or an address."),
        ("send runs/a", "VERB is missing."),
        ("keygen", "NAME is missing."),
        ("completion", "SHELL is missing."),
        ("replay runs/a", "the option --to is missing."),
        ("relay", "the option --output is missing."),
        ("verify a b", "unexpected argument 'b'."),
        ("tail a b c", "unexpected argument 'b' 'c'."),
    ],
)
def test_an_argument_is_named_as_in_the_help(capsys: pytest.CaptureFixture[str], line: str, message: str) -> None:
    """A missing positional argument is not called an option, and an extra one is quoted."""
    assert run(line.split()) == ExitCode.USAGE
    command = line.split()[0]
    assert capsys.readouterr().err == f"trainwire: {message} Try: trainwire {command} --help\n"


def test_the_name_of_a_run_is_a_target(
    tmp_path: Path, write_run: WriteRun, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A name as `trainwire runs` lists it is found below ./runs; a folder of that name here comes first."""
    monkeypatch.chdir(tmp_path)
    write_run([Recorder().scalars(3)], tmp_path / "runs" / "sweep" / "first")
    for target in ("sweep/first", "runs/sweep/first"):
        assert run(["export", target]) == 0
        assert capsys.readouterr().out.count("\n") == 4
    write_run([Recorder().scalars(5)], tmp_path / "sweep" / "first")
    assert run(["export", "sweep/first"]) == 0
    assert capsys.readouterr().out.count("\n") == 6


@pytest.mark.parametrize(
    "command",
    [["export"], ["tail"], ["verify"], ["export", "--rank", "all"], ["sink", "loss-file", "--give-up", "0.1"]],
)
@pytest.mark.parametrize("target", ["digts", "runs/digts", "elsewhere/digts"])
def test_a_run_with_a_similar_name_is_suggested(
    tmp_path: Path,
    write_run: WriteRun,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    command: list[str],
    target: str,
) -> None:
    """A TARGET that holds no run suggests the one that was probably meant, next to it or below ./runs."""
    monkeypatch.chdir(tmp_path)
    write_run(sample_run(), tmp_path / "runs" / "digits")
    assert run([*command, target]) != 0
    assert "; did you mean runs/digits?" in capsys.readouterr().err


def test_no_run_is_suggested_for_a_missing_rank(write_run: WriteRun, capsys: pytest.CaptureFixture[str]) -> None:
    """If the run exists but not the rank, the run itself is not suggested."""
    assert run(["export", str(write_run(sample_run())), "--rank", "7"]) == ExitCode.USAGE
    assert "did you mean" not in capsys.readouterr().err


@pytest.mark.parametrize("ending", ["finished", "failed", "interrupted"])
def test_send_says_that_a_run_is_over(write_run: WriteRun, capsys: pytest.CaptureFixture[str], ending: str) -> None:
    """A command to a run that is over reports how it ended."""
    recorder = Recorder()
    folder = write_run([recorder.scalars(3), recorder.happened(f"run/{ending}", reason="enough of it")])
    assert run(["send", str(folder), "stop"]) == ExitCode.USAGE
    assert f"the run is over: {ending} (enough of it)" in capsys.readouterr().err


BROKEN = """
from trainwire_sinks import AppendSink

class Broken(AppendSink):
    name, file_name = "broken", "broken.txt"

    async def handle(self, events):
        raise LookupError("a bug in " + self.name)
"""


def test_a_bug_in_a_sink_shows_its_traceback(tmp_path: Path, write_run: WriteRun) -> None:
    """The author of a sink sees the line that raised, once, without retries."""
    (tmp_path / "mine.py").write_text(BROKEN)
    completed = subprocess.run(
        [sys.executable, "-m", "trainwire_sinks", "sink", "mine:Broken", str(write_run(sample_run()))],
        cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert completed.returncode == ExitCode.SINK
    assert completed.stderr.count('raise LookupError("a bug in " + self.name)') == 1
    assert "retrying" not in completed.stderr
    assert completed.stderr.splitlines()[-1].startswith("trainwire: broken failed after attempt 0")


def test_compare_marks_only_what_differs(
    tmp_path: Path, write_run: WriteRun, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a terminal, of three values only the one that differs from the first is bold."""
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "200")
    folders = []
    for number, rate in enumerate((0.1, 0.1, 0.25)):
        recorder = Recorder()
        folders.append(
            write_run(
                [
                    recorder.happened("run/started"),
                    recorder.record([Event("hparams", {"rate": rate}, "hparams", 1.75e9, 0)]),
                ],
                tmp_path / f"{number}",
            )
        )
    assert run(["compare", *map(str, folders)]) == 0
    row = next(line for line in capsys.readouterr().out.splitlines() if "rate" in line)
    assert row.count("0.1") == 2
    assert "\x1b[1m0.25" in row
    assert "\x1b[1m0.1" not in row
