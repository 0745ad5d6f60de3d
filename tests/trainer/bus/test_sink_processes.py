"""Sinks that a training starts."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from support.run_reader import read_events, wait_until
from support.tiny_training import train

from trainwire.bus.sink_processes import SinkProcesses
from trainwire.training import session
from trainwire_protocol.environment import LAUNCHED_SINKS, SinkCommand

PRINT_SESSION = "import os; print(os.getsid(0))"


@pytest.fixture
def python(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[str], None]:
    """Return a function that replaces the interpreter, and so every sink, with a shell script."""

    def write(script: str) -> None:
        program = tmp_path / "program"
        program.write_text(f"#!/bin/sh\n{script}\n")
        program.chmod(0o755)
        monkeypatch.setattr(sys, "executable", str(program))

    return write


def test_a_training_starts_the_default_sinks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A training outside `trainwire launch` starts them, and they have finished when `train` returns."""
    monkeypatch.delenv(LAUNCHED_SINKS, raising=False)
    monkeypatch.setattr(session, "SINK_TIMEOUT", 50.0)
    train(tmp_path / "run", sinks=("loss-file", "log-file"))
    assert len((tmp_path / "run" / "loss.tsv").read_text().splitlines()) == 3
    assert "run finished" in (tmp_path / "run" / "training.log").read_text().splitlines()[-1]
    assert read_events(tmp_path / "run")[-1].name == "run/finished"


def test_a_sink_is_started_with_the_run_and_its_rank(tmp_path: Path, python: Callable[[str], None]) -> None:
    """It is a process of the `trainwire` command, in its own session."""
    python(f'echo "$@" > {tmp_path}/arguments; {sys.executable} -c "{PRINT_SESSION}" > {tmp_path}/session')
    sinks = SinkProcesses()
    sinks.start([SinkCommand("loss-file"), SinkCommand("loss-file")], Path("runs/one"), 3)
    assert sinks.wait(30) == {}
    assert (tmp_path / "arguments").read_text() == "-m trainwire_sinks sink loss-file runs/one --rank 3\n"
    assert int((tmp_path / "session").read_text()) != os.getsid(0)


def test_a_sink_is_started_with_its_options(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Options follow the sink's name, quoted as in a shell."""
    monkeypatch.delenv(LAUNCHED_SINKS, raising=False)
    monkeypatch.setattr(session, "SINK_TIMEOUT", 50.0)
    train(tmp_path / "run", sinks=(f"jsonl --output '{tmp_path}/an other'", "log-file"), create_file_logs=False)
    assert (tmp_path / "an other" / "events.jsonl").exists()
    assert not (tmp_path / "run" / "training.log").exists()


def test_sinks_started_by_launch_are_not_started_again(
    tmp_path: Path, python: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The sinks named in TRAINWIRE_LAUNCHED_SINKS are left out."""
    python(f"touch {tmp_path}/$4")
    monkeypatch.setenv(LAUNCHED_SINKS, "log-file,tensorboard")
    sinks = SinkProcesses()
    sinks.start([SinkCommand("loss-file"), SinkCommand("log-file")], tmp_path, 0)
    sinks.wait(30)
    assert (tmp_path / "loss-file").exists()
    assert not (tmp_path / "log-file").exists()


def test_a_failing_sink_is_logged(python: Callable[[str], None], caplog: pytest.LogCaptureFixture) -> None:
    """The warning names the sink and its exit code, and nothing is raised."""
    python("exit 7")
    sinks = SinkProcesses()
    sinks.start([SinkCommand("alerts")], Path(), 0)
    sinks.wait(30)
    assert "the sink alerts ended with exit code 7" in caplog.text


def test_a_sink_that_cannot_be_started_is_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is raised if the interpreter is missing."""
    monkeypatch.setattr(sys, "executable", str(tmp_path / "missing"))
    sinks = SinkProcesses()
    sinks.start([SinkCommand("alerts")], Path(), 0)
    assert sinks.wait(30) == {}
    assert "the sink alerts could not be started" in caplog.text


def test_a_slow_sink_is_logged_and_not_killed(
    tmp_path: Path, python: Callable[[str], None], caplog: pytest.LogCaptureFixture
) -> None:
    """A sink that has not finished in time continues by itself."""
    python(f"mkfifo {tmp_path}/go; read line < {tmp_path}/go")
    sinks = SinkProcesses()
    sinks.start([SinkCommand("slow")], Path(), 0)
    unfinished: dict[SinkCommand, subprocess.Popen[bytes]] = sinks.wait(0.0)
    slow = unfinished[SinkCommand("slow")]
    try:
        assert "sinks still running, which exit when they have read everything: slow" in caplog.text
        assert slow.poll() is None
        wait_until((tmp_path / "go").exists)
        (tmp_path / "go").write_text("go\n")
        assert slow.wait(30) == 0
    finally:
        slow.kill()
        slow.wait()
