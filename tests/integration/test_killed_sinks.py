"""Sinks that are killed again and again while a real training publishes, and runs that are resumed under them."""

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
    logger.warning("epoch %d is done", epoch)
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


def loop(folder: Path, epochs: int, *, keep: bool = True, stop: int = 0) -> subprocess.Popen[str]:
    """Start a hand-written training; with `stop` it hangs behind that epoch, its last checkpoint one event back."""
    command = [sys.executable, "-c", LOOP, str(folder), str(epochs), "keep" if keep else "new", str(stop)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def sink(name: str, folder: Path, output: Path | None = None) -> subprocess.Popen[bytes]:
    elsewhere = ["--output", str(output)] if output else []
    return subprocess.Popen([sys.executable, "-m", "trainwire_sinks", "sink", name, str(folder), *elsewhere])


def finish(process: subprocess.Popen[str]) -> None:
    process.communicate(timeout=60)
    assert process.returncode == 0


def contents(place: Path) -> dict[str, bytes]:
    """Every file below, by its name; of a file, its own content."""
    files = [place] if place.is_file() else sorted(place.rglob("*tfevents*"))
    return {path.name: path.read_bytes() for path in files}


def check_against_late_sinks(folder: Path, elsewhere: Path) -> None:
    """What sinks that are started now write elsewhere is byte for byte what stands in the run's folder."""
    for name, output in SINKS.items():
        assert sink(name, folder, elsewhere).wait(60) == 0
        assert contents(folder / output) == contents(elsewhere / output), name


@pytest.mark.timeout(180)
def test_killed_sinks_write_the_same_bytes(tmp_path: Path) -> None:
    """Three sinks, killed at random while the training runs, end with what an uninterrupted one writes."""
    chance = random.Random(7)
    folder = tmp_path / "run"
    training = loop(folder, epochs=20)
    sinks = {name: sink(name, folder) for name in SINKS}
    kills = 0
    while training.poll() is None:
        name = chance.choice(list(SINKS))
        try:
            sinks[name].wait(chance.uniform(0, 0.5))
        except subprocess.TimeoutExpired:
            sinks[name].kill()
            sinks[name].wait()
            kills += 1
            sinks[name] = sink(name, folder)
    finish(training)
    assert [process.wait(60) for process in sinks.values()] == [0, 0, 0]
    assert kills > 5
    assert [line.split("\t")[0] for line in (folder / "loss.tsv").read_text().splitlines()[1:]] == [
        str(epoch) for epoch in range(1, 21)
    ]
    check_against_late_sinks(folder, tmp_path / "late")


@pytest.fixture(params=["live", "late"])
def resumed(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A run that was killed behind its second epoch and resumed from its end, read by sinks all along or afterwards."""
    folder = tmp_path / "run"
    training = loop(folder, epochs=4, stop=2)
    sinks = [sink(name, folder) for name in SINKS] if request.param == "live" else []
    assert training.stdout is not None
    assert training.stdout.readline() == "stopped\n"
    if sinks:
        last = read_events(folder)[-1].name
        assert last == "run/marked"
        wait_until(lambda: (folder / "loss.tsv").exists() and (folder / "loss.tsv").read_text().count("\n") == 4)
    training.kill()
    training.communicate()
    finish(loop(folder, epochs=4))
    sinks = [process for process in sinks if process.wait(60) != 0] or [sink(name, folder) for name in SINKS]
    assert [process.wait(60) for process in sinks] == [0, 0, 0]
    return folder


@pytest.mark.timeout(180)
def test_every_sink_obeys_a_resumption(resumed: Path, tmp_path: Path) -> None:
    """loss.tsv has one row for each epoch, training.log has everything and the seam, TensorBoard a second file."""
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
def test_a_run_that_begins_anew_supersedes_everything(tmp_path: Path) -> None:
    """A further attempt without a state leaves only its own rows in loss.tsv."""
    folder = tmp_path / "run"
    for epochs in (3, 2):
        finish(loop(folder, epochs, keep=False))
        assert sink("loss-file", folder).wait(60) == 0
        assert (folder / "loss.tsv").read_text().count("\n") == epochs + 1


def test_a_stopped_sink_goes_on_where_it_was(tmp_path: Path) -> None:
    """SIGTERM, and another start when the training is over: what the two have written together is the whole."""
    folder = tmp_path / "run"
    training = loop(folder, epochs=1000)
    first = sink("log-file", folder)
    wait_until(lambda: (folder / "training.log").exists() and "epoch 2" in (folder / "training.log").read_text())
    first.send_signal(signal.SIGTERM)
    assert first.wait(20) == 143
    cursor = json.loads((folder / ".trainwire" / "log-file-rank0.cursor").read_text())
    assert cursor["length"] == (folder / "training.log").stat().st_size
    step = read_events(folder)[-1].step
    wait_until(lambda: read_events(folder)[-1].step > step + 100)
    training.kill()
    training.communicate()
    assert sink("log-file", folder).wait(60) == 0
    assert cursor["length"] < (folder / "training.log").stat().st_size
    assert sink("log-file", folder, tmp_path / "late").wait(60) == 0
    assert (folder / "training.log").read_bytes() == (tmp_path / "late" / "training.log").read_bytes()
