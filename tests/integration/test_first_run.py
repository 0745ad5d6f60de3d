"""A first run as a new user makes it: the digits example, three sinks, and TensorBoard."""

from __future__ import annotations

import math
import re
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import pytest
from support.paths import ROOT
from support.run_reader import read_events, wait_until
from support.tensorboard_server import get, tensorboard

TRAINWIRE = [sys.executable, "-m", "trainwire_sinks"]
EPOCHS = 3

pytest.importorskip("sklearn", reason="the example needs scikit-learn's images")
pytestmark = pytest.mark.timeout(180)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run the digits example with three sinks, and return the run's folder."""
    folder = tmp_path_factory.mktemp("first") / "digits"
    sinks = [word for name in ("loss-file", "log-file", "tensorboard") for word in ("--sink", name)]
    script = [sys.executable, str(ROOT / "examples" / "digits.py"), str(folder), "--epochs", str(EPOCHS)]
    completed = subprocess.run(
        [*TRAINWIRE, "launch", *sinks, "--", *script], capture_output=True, text=True, timeout=120, check=False
    )
    assert completed.returncode == 0, completed.stderr
    assert "tensorboard --logdir" in completed.stdout
    return folder


def scalars(folder: Path) -> dict[str, dict[int, float]]:
    """Return the scalars of the journal: by name, the value at each step."""
    found: dict[str, dict[int, float]] = defaultdict(dict)
    for event in read_events(folder):
        if event.type == "scalar":
            found[event.name][event.step] = event.value
    return dict(found)


def test_the_loss_file_has_a_row_for_each_epoch(run: Path) -> None:
    """`loss.tsv` has a header and a row for each epoch, with the losses in full precision."""
    header, *rows = [line.split("\t") for line in (run / "loss.tsv").read_text().splitlines()]
    assert header[:5] == ["EPOCH", "TIMESTAMP", "BAD_EPOCHS", "LEARNING_RATE", "TRAIN_LOSS"]
    assert {"DEV_LOSS", "DEV_ACCURACY"} <= set(header)
    assert [row[0] for row in rows] == [str(epoch) for epoch in range(1, EPOCHS + 1)]
    losses = list(scalars(run)["train/loss"].values())
    assert [float(row[4]) for row in rows] == losses


def test_the_log_file_covers_the_whole_run(run: Path) -> None:
    """`training.log` begins with the start of the run and ends with its end; each line has a date and a level."""
    text = (run / "training.log").read_text()
    lines = [line for line in text.splitlines() if not line.startswith("    ")]
    assert all(re.match(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3}\+00:00 [A-Z]+ ", line) for line in lines)
    assert "run digits" in lines[0]
    assert "run finished" in lines[-1]
    assert "device" in text
    assert "best model saved" in text


@pytest.mark.parametrize("load_fast", [True, False])
def test_tensorboard_shows_every_scalar_in_the_journal(run: Path, load_fast: bool) -> None:
    """TensorBoard shows each scalar in the journal at its step, with both of its loaders."""
    expected = scalars(run)
    with tensorboard(run / "tensorboard", load_fast=load_fast) as address:
        wait_until(lambda: expected.keys() <= get(address, "data/plugin/scalars/tags").get("rank-0", {}).keys(), 60)
        for name, points in expected.items():
            rows = get(address, "data/plugin/scalars/scalars", run="rank-0", tag=name)
            shown = {step: value for _, step, value in rows}
            assert shown.keys() == points.keys(), name
            assert all(math.isclose(shown[step], points[step], rel_tol=1e-6) for step in points), name


@pytest.mark.parametrize(
    ("sink", "output"), [("loss-file", "loss.tsv"), ("log-file", "training.log"), ("tensorboard", "tensorboard")]
)
def test_a_late_sink_writes_the_same_bytes(run: Path, tmp_path: Path, sink: str, output: str) -> None:
    """A sink that is started after the run writes the same bytes as the live one, and exits with 0."""
    command = [*TRAINWIRE, "sink", sink, str(run), "--output", str(tmp_path)]
    completed = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert (completed.returncode, completed.stderr) == (0, "")
    assert contents(tmp_path / output) == contents(run / output)


def contents(path: Path) -> dict[str, bytes]:
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    assert files
    return {str(file.relative_to(path.parent)): file.read_bytes() for file in files}


def test_a_plain_loop_without_the_trainer(tmp_path: Path) -> None:
    """The hand-written loop of the examples has fewer than 40 lines, and records its loss."""
    script = ROOT / "examples" / "plain_loop.py"
    assert len(script.read_text().splitlines()) < 40
    subprocess.run([sys.executable, str(script), str(tmp_path / "run")], timeout=120, check=True)
    assert any(event.name == "train/loss" for event in read_events(tmp_path / "run"))
