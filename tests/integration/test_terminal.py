"""What a user sees on a terminal: where a run is recorded, how to follow it, and the progress of a training."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from support.paths import TESTS
from support.terminal import run_on_terminal

import trainwire

LOOP = """
import trainwire
with trainwire.open_bus("runs/my run", **{arguments}) as bus:
    bus.log({{"loss": 1.0}}, step=1)
"""

TRAINING = """
from support.tiny_training import corpus, make_trainer
make_trainer().train("runs/mine", corpus=corpus(), max_epochs=2, sinks=(), **{arguments})
"""

TRAINWIRE = [sys.executable, "-m", "trainwire_sinks"]


def on_terminal(folder: Path, command: list[str], **environment: str) -> str:
    """Run a command with standard error on a terminal, and return what it writes there, without escape sequences."""
    variables = {name: value for name, value in os.environ.items() if name not in ("TRAINWIRE_QUIET", "NO_COLOR")}
    path = f"{TESTS}:{os.environ.get('PYTHONPATH', '')}"
    code, shown = run_on_terminal(
        command, "stderr", cwd=folder, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
        env=variables | {"PYTHONPATH": path, "TERM": "xterm", "COLUMNS": "160"} | environment,
    )  # fmt: skip
    assert code == 0, shown
    return re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", shown).replace("\r", "\n")


def python(program: str, arguments: str = "{}") -> list[str]:
    return [sys.executable, "-c", program.format(arguments=arguments)]


def test_a_bus_says_once_where_it_records(tmp_path: Path) -> None:
    """The line has the run's folder and the command to follow it, both as a shell takes them."""
    shown = on_terminal(tmp_path, python(LOOP))
    line = "trainwire: recording to 'runs/my run'; to follow it: trainwire watch 'runs/my run'"
    assert [row for row in shown.splitlines() if row] == [line]


@pytest.mark.parametrize(
    ("arguments", "environment"),
    [("{'quiet': True}", {}), ("{}", {"TRAINWIRE_QUIET": "1"}), ("{'rank': 1, 'world_size': 2}", {})],
)
def test_a_bus_can_be_quiet(tmp_path: Path, arguments: str, environment: dict[str, str]) -> None:
    """An argument, an environment variable, and a rank other than 0 suppress the line."""
    assert on_terminal(tmp_path, python(LOOP, arguments), **environment) == ""


def test_a_bus_prints_nothing_without_a_terminal(tmp_path: Path) -> None:
    """A script whose output is a pipe or file gets no line of ours."""
    completed = subprocess.run(python(LOOP), cwd=tmp_path, capture_output=True, text=True, timeout=120, check=True)
    assert (completed.stdout, completed.stderr) == ("", "")


def test_a_training_shows_its_schedule_and_its_progress(tmp_path: Path) -> None:
    """The folder, the schedule with the rate at which it stops, and a bar with loss and scores are shown."""
    shown = on_terminal(tmp_path, python(TRAINING))
    assert "trainwire: recording to runs/mine; to follow it: trainwire watch runs/mine" in shown
    assert "learning rate 0.1: multiplied by 0.5 when dev/accuracy has not improved for more than 3 epochs" in shown
    assert "the training stops when it would fall below 0.0001" in shown
    assert re.search(r"epoch 2/2 .* loss 0\.\d+ .*dev/accuracy", shown)


@pytest.mark.parametrize(("arguments", "part"), [("{'quiet': True}", ""), ("{'default_plugins': False}", "recording")])
def test_a_training_can_be_quiet(tmp_path: Path, arguments: str, part: str) -> None:
    """`quiet` shows nothing at all; without the default plugins there is no bar."""
    shown = on_terminal(tmp_path, python(TRAINING, arguments))
    assert "epoch 1/2" not in shown
    assert (part in shown) if part else shown == ""


@pytest.mark.parametrize(
    ("sink", "line"),
    [
        ("loss-file", "trainwire: loss-file: reading run, writing to run/loss.tsv"),
        (
            "tensorboard",
            "trainwire: tensorboard: reading run, writing event files to run/tensorboard/rank-0; to see them: "
            "tensorboard --logdir run/tensorboard/rank-0",
        ),
        ("console", "trainwire: console: reading run"),
    ],
)
def test_a_sink_says_what_it_reads_and_writes(tmp_path: Path, sink: str, line: str) -> None:
    """On a terminal, a sink names its run and its output once."""
    with trainwire.open_bus(tmp_path / "run") as bus:
        bus.log({"loss": 1.0}, step=1)
        bus.finish_epoch(1)
    shown = on_terminal(tmp_path, [*TRAINWIRE, "sink", sink, "run"])
    assert [row for row in shown.splitlines() if row] == [line]
