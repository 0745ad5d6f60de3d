"""Commands that wait for a run or a rank to begin."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from support import publisher
from support.recorder import Recorder

from trainwire_sinks.cli.app import run
from trainwire_sinks.runtime.exit_codes import ExitCode
from trainwire_sinks.testing.check_sink import sample_run

Trainwire = Callable[..., subprocess.Popen[str]]
WriteRun = Callable[..., Path]


def test_waiting_creates_no_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A sink of a mistyped folder waits and creates neither that folder nor its output folder."""
    folder, output = tmp_path / "rnu", tmp_path / "output"
    for rank, seconds in (("0", "0.2"), ("all", "0")):
        options = ["--output", str(output), "--rank", rank, "--give-up", seconds]
        assert run(["sink", "loss-file", str(folder), *options]) == ExitCode.INCOMPLETE
        lines = capsys.readouterr().err.splitlines()
        assert [line.partition(": the run")[2] for line in lines] == [
            " has not started; waiting (use --give-up SECONDS to limit the wait)",
            f" has not started; gave up after {seconds} s",
        ]
        assert list(tmp_path.iterdir()) == []


def test_a_waiting_sink_can_be_ended(tmp_path: Path, trainwire: Trainwire) -> None:
    """SIGTERM ends a sink that waits for its run, and leaves nothing behind."""
    process = trainwire("sink", "loss-file", tmp_path / "run")
    assert process.stderr is not None
    assert "the run has not started" in process.stderr.readline()
    process.terminate()
    assert process.wait(20) == ExitCode.TERMINATED
    assert list(tmp_path.iterdir()) == []


def test_a_rank_that_a_run_does_not_have_is_refused(write_run: WriteRun, capsys: pytest.CaptureFixture[str]) -> None:
    """For a run that is over, a rank that it does not have is an error."""
    folder = write_run(sample_run())
    assert run(["sink", "loss-file", str(folder), "--rank", "7"]) == ExitCode.USAGE
    assert capsys.readouterr().err == f"trainwire: the run in {folder} has no rank 7; it has rank 0\n"
    assert not (folder / ".trainwire").exists()


def test_a_late_rank_is_waited_for(tmp_path: Path, write_run: WriteRun, trainwire: Trainwire) -> None:
    """A rank of a live run whose number of ranks is unknown is waited for."""
    folder = write_run(sample_run(), is_over=False)
    process = trainwire("sink", "jsonl", folder, "--rank", 1)
    assert process.stderr is not None
    assert "the run has not started" in process.stderr.readline()
    recorder = Recorder("recorded", rank=1)
    write_run([recorder.scalars(3), recorder.happened("run/finished")], folder)
    assert process.wait(20) == 0
    assert (folder / "rank-1" / "events.jsonl").read_text().count("\n") == 4


def test_a_rank_beyond_the_world_size_is_refused(tmp_path: Path, trainwire: Trainwire) -> None:
    """For a live run whose world size is known, a rank beyond it is an error."""

    async def main() -> None:
        async with publisher.Publisher(tmp_path / "run") as one:
            one.scalars()
            process = trainwire("sink", "loss-file", tmp_path / "run", "--rank", 1)
            _, error = await asyncio.to_thread(process.communicate, timeout=20)
        assert process.returncode == ExitCode.USAGE
        assert "has no rank 1; it has rank 0" in error

    publisher.run(main())


def test_a_run_that_died_is_reported(tmp_path: Path, trainwire: Trainwire) -> None:
    """If the trainer was killed, a sink writes everything that was recorded, reports the run's death, and exits."""
    command = [sys.executable, "-m", "support.publisher", tmp_path / "run", "3", "2"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as trainer:
        assert trainer.stdout is not None
        assert trainer.stdout.readline() == "6\n"
        sink = trainwire("sink", "jsonl", tmp_path / "run")
        trainer.kill()
    _, error = sink.communicate(timeout=20)
    message = "the run has died: the process of its last attempt is gone and recorded no end"
    assert (sink.returncode, error) == (0, f"trainwire: {tmp_path / 'run'}: {message}\n")
    assert (tmp_path / "run" / "events.jsonl").read_text().count("\n") == 6
