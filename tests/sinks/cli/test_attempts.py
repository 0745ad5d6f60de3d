"""`--attempt`: every command that reads a run shows it as it stood when an earlier attempt ended."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from io import StringIO
from pathlib import Path
from typing import Any

import pytest

from trainwire_protocol.wire import Batch
from trainwire_sinks.builtin.jsonl import JsonLines
from trainwire_sinks.builtin.loss_file import LossFile
from trainwire_sinks.cli.app import run
from trainwire_sinks.runtime.exit_codes import ExitCode
from trainwire_sinks.testing.check_sink import record, run_sink
from trainwire_sinks.testing.sample import sample_attempts, sample_restarts

WriteRun = Callable[..., Path]

KEPT = {0: [0], 1: [0, 1], 2: [2], 3: [2, 3], 4: [0, 4]}
"""The attempts of the sample that are part of the run when each one ended."""


def sample() -> list[Batch]:
    return record(*sample_attempts(), *sample_restarts())


def losses(attempt: int) -> list[tuple[int, float]]:
    """Return the steps and losses of the sample as it stood when an attempt ended, computed by hand."""
    first = [(step, 0.5) for step in range(1, 5)]
    return {
        0: first + [(step, 9.0) for step in range(5, 9)] + [(step, 9.5) for step in range(9, 13)],
        1: first + [(step, 0.25) for step in range(5, 9)] + [(step, 0.125) for step in range(9, 13)],
        2: [(step, 0.75) for step in range(1, 5)] + [(step, 0.7) for step in range(5, 9)],
        3: [(step, 0.75) for step in range(1, 5)] + [(step, 0.7) for step in range(5, 9)],
        4: first + [(step, 0.375) for step in range(5, 9)],
    }[attempt]


def json_of(capsys: pytest.CaptureFixture[str], *arguments: object) -> Any:
    capsys.readouterr()
    assert run([str(argument) for argument in arguments]) == 0
    return json.loads(capsys.readouterr().out)


@pytest.mark.parametrize("attempt", KEPT)
def test_an_attempt_is_exported(write_run: WriteRun, capsys: pytest.CaptureFixture[str], attempt: int) -> None:
    """The rows are those of the attempt and of what it had resumed; later attempts change nothing."""
    folder = write_run(sample())
    assert run(["export", str(folder), "--attempt", str(attempt), "--name", "train/batch_loss"]) == 0
    rows = list(csv.DictReader(StringIO(capsys.readouterr().out)))
    assert [(int(row["step"]), float(row["value"])) for row in rows] == losses(attempt)


@pytest.mark.parametrize(
    "options", [["--from", "start"], ["-n", "1000"], ["-n", "1000", "-f"], ["--from", "start", "-f"]]
)
def test_an_attempt_is_printed(write_run: WriteRun, capsys: pytest.CaptureFixture[str], options: list[str]) -> None:
    """`tail` reads backwards, forwards and following, and ends with the attempt."""
    folder = write_run(sample())
    for attempt in KEPT:
        assert (
            run(["tail", str(folder), "--json", "--name", "train/batch_loss", "--attempt", str(attempt), *options]) == 0
        )
        lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
        assert [(line["step"], line["value"]) for line in lines] == losses(attempt)


def test_an_attempt_is_replayed(tmp_path: Path, write_run: WriteRun) -> None:
    """A replay of an attempt has the bytes that a sink kept aside, or wrote before the next attempt began."""
    batches = sample()
    folder = write_run(batches)
    for sink, name, aside in (
        (LossFile, "loss.tsv", "loss.attempt-{}.tsv"),
        (JsonLines, "events.jsonl", "events.attempt-{}.jsonl"),
    ):
        run_sink(sink, tmp_path / "live", batches)
        for attempt in KEPT:
            upto = tmp_path / f"{sink.name}-{attempt}"
            run_sink(sink, upto, [batch for batch in batches if batch.header.attempt <= attempt])
            again = tmp_path / f"replay-{sink.name}-{attempt}"
            assert (
                run(["replay", str(folder), "--to", sink.name, "--attempt", str(attempt), "--output", str(again)]) == 0
            )
            assert (again / name).read_bytes() == (upto / name).read_bytes()
            assert len([path for path in again.iterdir() if path.is_file()]) == 1
        for ended in (1, 3):
            kept = (tmp_path / "live" / aside.format(ended)).read_bytes()
            assert kept == (tmp_path / f"{sink.name}-{ended}" / name).read_bytes()


def test_a_log_is_replayed_without_what_the_attempt_superseded(tmp_path: Path, write_run: WriteRun) -> None:
    """A sink that keeps superseded events gets only those that the attempt kept."""
    assert (
        run(["replay", str(write_run(sample())), "--to", "log-file", "--attempt", "1", "--output", str(tmp_path)]) == 0
    )
    text = (tmp_path / "training.log").read_text()
    assert "train/loss 0.125" in text
    assert "train/loss 9" not in text
    assert "train/loss 0.75" not in text


def test_attempts_of_one_run_are_compared(write_run: WriteRun, capsys: pytest.CaptureFixture[str]) -> None:
    """One run is compared with itself: two attempts, or one with the run as it is now."""
    folder = write_run(sample())
    both = json_of(capsys, "compare", folder, "--attempt", 1, "--attempt", 3, "--json")
    assert [found["target"] for found in both["runs"]] == [f"{folder} attempt 1", f"{folder} attempt 3"]
    assert [found["metrics"]["train/batch_loss"] for found in both["runs"]] == [0.125, 0.7]
    assert both["divergences"][0]["first"] == {"step": 1, "metrics": ["train/batch_loss"]}
    now = json_of(capsys, "compare", folder, "--attempt", 2, "--json")
    assert [found["metrics"]["train/batch_loss"] for found in now["runs"]] == [0.7, 0.375]
    assert run(["compare", str(folder), "--attempt", "0", "--attempt", "1"]) == 0
    assert "run attempt 0 and run attempt 1 first diverge at step 5" in capsys.readouterr().out


def test_attempts_of_several_runs_are_compared(
    tmp_path: Path, write_run: WriteRun, capsys: pytest.CaptureFixture[str]
) -> None:
    """One number counts for all runs, several for each in order; any other number of them is refused."""
    one, other = write_run(sample()), write_run(sample(), tmp_path / "other")
    same = json_of(capsys, "compare", one, other, "--attempt", 1, "--json")
    assert same["divergences"][0]["first"] is None
    each = json_of(capsys, "compare", one, other, "--attempt", 1, "--attempt", 2, "--json")
    assert [found["metrics"]["train/batch_loss"] for found in each["runs"]] == [0.125, 0.7]
    assert run(["compare", str(one), str(other), *["--attempt", "0"] * 3]) == ExitCode.USAGE
    assert "--attempt is given 3 times for 2 runs" in capsys.readouterr().err


def test_runs_shows_an_attempt(write_run: WriteRun, capsys: pytest.CaptureFixture[str]) -> None:
    """State, step and best score are those of the attempt; runs that lack it are left out."""
    folder = write_run(sample())
    rows = {number: json_of(capsys, "runs", folder, "--attempt", number, "--json")[0] for number in KEPT}
    assert [rows[number]["step"] for number in KEPT] == [12, 12, 8, 8, 8]
    assert [rows[number]["attempts"] for number in KEPT] == [1, 2, 3, 4, 5]
    assert [rows[number]["state"] for number in (1, 2, 3)] == ["finished", "failed", "finished"]
    assert [rows[number]["best"]["score"] for number in KEPT] == [9.5, 0.125, 0.7, 0.7, 0.375]
    assert run(["runs", str(folder), "--attempt", "5"]) == ExitCode.USAGE
    assert "there is no run with an attempt 5 under" in capsys.readouterr().err


def test_an_attempt_is_watched(write_run: WriteRun, capsys: pytest.CaptureFixture[str]) -> None:
    """The view has the values, the log and the state of the attempt, and the alerts up to it."""
    folder = write_run(sample())
    assert run(["sink", "alerts", str(folder)]) == 0
    capsys.readouterr()
    for attempt, (state, last) in {1: ("finished", "0.125"), 2: ("failed: ValueError: odd", "0.7")}.items():
        assert run(["watch", str(folder), "--attempt", str(attempt)]) == 0
        text = capsys.readouterr().out
        assert f"train/loss {last}" in text.splitlines()[-1]
        assert state in text
        assert ("failed at step 8" in text) == (attempt == 2)


@pytest.mark.parametrize(
    "command",
    [["export"], ["tail"], ["tail", "-f"], ["compare"], ["watch", "--plain"], ["replay", "--to", "jsonl"]],
)
def test_an_attempt_that_the_run_does_not_have_is_named(
    write_run: WriteRun, capsys: pytest.CaptureFixture[str], command: list[str]
) -> None:
    """The error lists those that it has, and nothing is written."""
    folder = write_run(sample())
    assert run([command[0], str(folder), *command[1:], "--attempt", "7"]) == ExitCode.USAGE
    assert "has no attempt 7; it has attempts 0 to 4" in capsys.readouterr().err
    assert not (folder / "replay").exists()


def test_an_attempt_of_all_ranks_is_exported(write_run: WriteRun, capsys: pytest.CaptureFixture[str]) -> None:
    """With `--rank all`, the rows are those of the attempt too."""
    folder = write_run(sample())
    assert run(["export", str(folder), "--rank", "all", "--attempt", "2", "--name", "train/batch_loss"]) == 0
    rows = list(csv.DictReader(StringIO(capsys.readouterr().out)))
    assert [float(row["value"]) for row in rows] == [value for _, value in losses(2)]
