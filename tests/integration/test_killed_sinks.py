"""Sinks that are killed repeatedly while a training publishes, and runs that are resumed while sinks read them."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from support.run_reader import read_events, wait_until

SINKS = {"loss-file": "loss.tsv", "log-file": "training.log", "tensorboard": "tensorboard"}

LOOP = """
import json, logging, sys, time
from pathlib import Path
import trainwire

folder, epochs, keep, stop = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3] == "keep", int(sys.argv[4])
checkpoint = folder.with_suffix(".json")
state = json.loads(checkpoint.read_text()) if keep and checkpoint.exists() else None
bus = trainwire.open_bus(folder, hparams={"lr": 5e-5}, state=state and state["bus"])
logger = logging.getLogger("loop")
logger.addHandler(bus.logging_handler())
step, first = (state["step"], state["epoch"] + 1) if state else (0, 1)
for epoch in range(first, epochs + 1):
    bus.lifecycle("epoch/started", epoch=epoch, max_epochs=epochs, batches=100)
    for _ in range(100):
        step += 1
        bus.log({"train/batch_loss": 1 / step, "train/gradient_norm": float(step)}, step=step)
        time.sleep(0.002)
    if epoch == 3:
        bus.text("note", "half of it\\n" * 1000)
        bus.log({"test/late": 1.0})
    logger.warning("epoch %d is finished", epoch)
    metrics = {"train/loss": 1 / step, "dev/loss": 2 / step, "learning_rate": 5e-5}
    bus.log(metrics)
    bus.lifecycle("epoch/finished", epoch=epoch, complete=True, bad_epochs=0, seconds=0.2, metrics=metrics)
    if keep:
        saved = bus.state_dict()
        assert bus.wait_until_journaled(saved, 10)
        checkpoint.write_text(json.dumps({"bus": saved, "step": step, "epoch": epoch}))
    if epoch == stop:
        bus.log({"train/batch_loss": 99.0}, step=step + 1)
        bus.lifecycle("epoch/finished", epoch=epoch + 1, metrics={"train/loss": 99.0})
        assert bus.wait_until_journaled(bus.state_dict(), 10)
        print("stopped", flush=True)
        time.sleep(3600)
bus.close()
"""


def start_training(folder: Path, epochs: int, *, keep: bool = True, stop: int = 0) -> subprocess.Popen[str]:
    """Start a hand-written training; after epoch `stop` it records more than its checkpoint covers, and hangs."""
    command = [sys.executable, "-c", LOOP, str(folder), str(epochs), "keep" if keep else "new", str(stop)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def start_sink(name: str, folder: Path, output: Path | None = None) -> subprocess.Popen[bytes]:
    options = ["--output", str(output)] if output else []
    return subprocess.Popen([sys.executable, "-m", "trainwire_sinks", "sink", name, str(folder), *options])


def finish(process: subprocess.Popen[str]) -> None:
    process.communicate(timeout=120)
    assert process.returncode == 0


def contents(path: Path) -> dict[str, bytes]:
    """Return the bytes of a file, or of all event files in a folder, by name."""
    files = [path] if path.is_file() else sorted(path.rglob("*tfevents*"))
    return {path.name: path.read_bytes() for path in files}


def check_against_late_sinks(folder: Path, output_folder: Path) -> None:
    """Check that sinks that are started now write the same bytes as those in the run's folder."""
    for name, output in SINKS.items():
        assert start_sink(name, folder, output_folder).wait(60) == 0
        assert contents(folder / output) == contents(output_folder / output), name


@pytest.mark.timeout(180)
def test_killed_sinks_write_the_same_bytes(tmp_path: Path) -> None:
    """Three sinks that are killed at random during the training write the same bytes as uninterrupted ones."""
    rng = random.Random(7)
    folder = tmp_path / "run"
    training = start_training(folder, epochs=20)
    sinks = {name: start_sink(name, folder) for name in SINKS}
    kills = 0
    while training.poll() is None:
        name = rng.choice(list(SINKS))
        try:
            sinks[name].wait(rng.uniform(0, 0.5))
        except subprocess.TimeoutExpired:
            sinks[name].kill()
            sinks[name].wait()
            kills += 1
            sinks[name] = start_sink(name, folder)
    finish(training)
    assert [process.wait(60) for process in sinks.values()] == [0, 0, 0]
    assert kills > 5
    assert [line.split("\t")[0] for line in (folder / "loss.tsv").read_text().splitlines()[1:]] == [
        str(epoch) for epoch in range(1, 21)
    ]
    check_against_late_sinks(folder, tmp_path / "late")


@pytest.fixture(params=["live", "late"])
def resumed(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """Return a run that was killed after its second epoch and resumed, read by sinks during the run or afterwards."""
    folder = tmp_path / "run"
    training = start_training(folder, epochs=4, stop=2)
    sinks = [start_sink(name, folder) for name in SINKS] if request.param == "live" else []
    assert training.stdout is not None
    assert training.stdout.readline() == "stopped\n"
    if sinks:
        last = read_events(folder)[-1].name
        assert last == "run/marked"
        wait_until(lambda: (folder / "loss.tsv").exists() and (folder / "loss.tsv").read_text().count("\n") == 4)
    training.kill()
    training.communicate()
    finish(start_training(folder, epochs=4))
    assert [process.wait(60) for process in sinks] == [0] * len(sinks)
    # A sink may have ended with the killed attempt: others bring its output to the end of the run.
    assert [process.wait(60) for process in [start_sink(name, folder) for name in SINKS]] == [0, 0, 0]
    return folder


@pytest.mark.timeout(180)
def test_every_sink_follows_a_resumption(resumed: Path, tmp_path: Path) -> None:
    """`loss.tsv` has one row for each epoch, `training.log` everything, and TensorBoard a second event file."""
    rows = [line.split("\t") for line in (resumed / "loss.tsv").read_text().splitlines()[1:]]
    assert [row[0] for row in rows] == ["1", "2", "3", "4"]
    assert [row[4] for row in rows] == [repr(1 / step) for step in (100, 200, 300, 400)]
    log = (resumed / "training.log").read_text()
    assert log.count("loop: epoch") == 4
    assert log.count("run resumed from step 200 (attempt 0,") == 1
    assert "train/loss 99" in log
    assert len(contents(resumed / "tensorboard")) == 2
    check_against_late_sinks(resumed, tmp_path / "late")


@pytest.mark.timeout(180)
def test_a_run_without_a_state_supersedes_everything(tmp_path: Path) -> None:
    """After an attempt without a state, `loss.tsv` has only the rows of that attempt."""
    folder = tmp_path / "run"
    for epochs in (3, 2):
        finish(start_training(folder, epochs, keep=False))
        assert start_sink("loss-file", folder).wait(60) == 0
        assert (folder / "loss.tsv").read_text().count("\n") == epochs + 1


def test_a_terminated_sink_continues_from_its_cursor(tmp_path: Path) -> None:
    """A sink ended by SIGTERM and restarted after the training writes the same bytes as a late one."""
    folder = tmp_path / "run"
    training = start_training(folder, epochs=1000)
    first = start_sink("log-file", folder)
    wait_until(lambda: (folder / "training.log").exists() and "epoch 2" in (folder / "training.log").read_text())
    first.send_signal(signal.SIGTERM)
    assert first.wait(20) == 143
    cursor = json.loads((folder / ".trainwire" / "log-file-rank0.cursor").read_text())
    assert cursor["length"] == (folder / "training.log").stat().st_size
    step = read_events(folder)[-1].step
    wait_until(lambda: read_events(folder)[-1].step > step + 100)
    training.kill()
    training.communicate()
    assert start_sink("log-file", folder).wait(60) == 0
    assert cursor["length"] < (folder / "training.log").stat().st_size
    assert start_sink("log-file", folder, tmp_path / "late").wait(60) == 0
    assert (folder / "training.log").read_bytes() == (tmp_path / "late" / "training.log").read_bytes()
