"""Two processes that train together, as torchrun starts them."""

from __future__ import annotations

import random
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from support.run_reader import read_events, wait_until
from support.tiny_training import corpus, linear, make_trainer, points, train
from support.torchrun import finish_torchrun, start_torchrun, torchrun

from trainwire.checkpointing.checkpoint import list_checkpoints

SCRIPT = """
import os, signal, sys
from pathlib import Path
import torch
torch.set_num_threads(1)
sys.path.insert(0, sys.argv[2])
from support.run_reader import wait_until
from support.tiny_training import corpus, linear, make_trainer, train
from trainwire.checkpointing.checkpoint import list_checkpoints
from trainwire.plugins.checkpoints import Checkpoints
from trainwire.plugins.swa import SWA

folder, epochs, kill_at = Path(sys.argv[1]), int(sys.argv[3]), int(sys.argv[4])
model = linear()
trainer = make_trainer(model)

@trainer.on("after_training_batch")
def kill(batch):
    if batch.step == kill_at:
        wait_until(lambda: list_checkpoints(folder), 60)  # they are written in the background
        os.kill(os.getpid(), signal.SIGKILL)

plugins = [Checkpoints(steps=2)]
if len(sys.argv) > 5:
    model = torch.nn.Sequential(torch.nn.BatchNorm1d(4), linear())
    trainer = make_trainer(model)
    plugins.append(SWA(start=1))
result = train(
    folder, *plugins, trainer=trainer, corpus=corpus(train=96, dev=17), mini_batch_size=8,
    mini_batch_chunk_size=5, max_epochs=epochs, resume=True, use_final_model_for_eval=len(sys.argv) > 5,
)
torch.save(model.state_dict(), folder / f"weights-{os.environ['RANK']}.pt")
sys.stdout.write(f"{result.status} {result.reason} {result.steps}\\n")  # one write, since both processes share a pipe
"""


def start(folder: Path, epochs: int = 3, kill_at: int = -1) -> subprocess.Popen[str]:
    return start_torchrun(SCRIPT, folder, epochs, kill_at)


def finish(process: subprocess.Popen[str]) -> str:
    code, output = finish_torchrun(process, 120)
    assert code == 0, output
    return output


def weights(folder: Path, rank: int) -> torch.Tensor:
    saved: dict[str, torch.Tensor] = torch.load(folder / f"weights-{rank}.pt", weights_only=True)
    return saved["weight"]


def epochs(folder: Path, rank: int) -> list[dict[str, Any]]:
    """Return the metrics of each epoch that a rank has published."""
    events = [event for event in read_events(folder, rank) if event.name == "epoch/finished"]
    return [event.value["metrics"] for event in events]


@pytest.mark.timeout(180)
def test_two_processes_equal_one_with_twice_the_batch_size(tmp_path: Path) -> None:
    """Both end with the weights and metrics of a single process, and each records its own events."""
    finish(start(tmp_path / "two"))
    model = linear()
    result = train(
        tmp_path / "one", trainer=make_trainer(model), corpus=corpus(train=96, dev=17), mini_batch_size=16, max_epochs=3
    )
    assert torch.equal(weights(tmp_path / "two", 0), weights(tmp_path / "two", 1))
    torch.testing.assert_close(weights(tmp_path / "two", 0), model.weight.detach())
    assert epochs(tmp_path / "two", 0) == epochs(tmp_path / "two", 1)
    for single, joint in zip(result.history, epochs(tmp_path / "two", 0), strict=True):
        assert joint == pytest.approx(single, rel=1e-5)
    started = [read_events(tmp_path / "two", rank)[0].value for rank in (0, 1)]
    assert [(value["rank"], value["world_size"]) for value in started] == [(0, 2), (1, 2)]
    assert sum(event.name == "checkpoint/saved" for event in read_events(tmp_path / "two", 1)) == 0
    losses = [
        [event.value for event in read_events(tmp_path / "two", rank) if event.name == "train/batch_loss"]
        for rank in (0, 1)
    ]
    assert len(losses[0]) == len(losses[1]) == 18
    assert losses[0] != losses[1]


@pytest.mark.timeout(180)
def test_a_command_to_one_process_stops_both(tmp_path: Path) -> None:
    """`trainwire send … stop` to rank 1 ends both processes after the same step."""
    process = start(tmp_path / "run", epochs=10**6)
    wait_until(lambda: (tmp_path / "run" / "best-model.pt").exists(), 90)
    command = [sys.executable, "-m", "trainwire_sinks", "send", str(tmp_path / "run"), "stop", "--rank", "1"]
    subprocess.run(command, check=True, timeout=120, stdout=subprocess.DEVNULL)
    lines = [line for line in finish(process).splitlines() if line.startswith("finished")]
    assert len(lines) == 2
    assert len({line.split()[-1] for line in lines}) == 1
    assert any("stopped by a command" in line for line in lines)
    assert [read_events(tmp_path / "run", rank)[-1].name for rank in (0, 1)] == ["run/finished"] * 2


@pytest.mark.timeout(300)
def test_two_killed_processes_are_resumed_exactly(tmp_path: Path) -> None:
    """Killed during an epoch and resumed, both end with the weights of an uninterrupted training."""
    finish(start(tmp_path / "whole"))
    killed = start(tmp_path / "killed", kill_at=random.Random(3).randint(13, 17))  # in the third epoch
    killed.communicate(timeout=120)
    assert killed.returncode != 0
    assert list_checkpoints(tmp_path / "killed")[0].label.world_size == 2
    finish(start(tmp_path / "killed"))
    for rank in (0, 1):
        assert torch.equal(weights(tmp_path / "killed", rank), weights(tmp_path / "whole", rank))
    assert read_events(tmp_path / "killed")[-1].step == 18


@pytest.mark.timeout(180)
def test_a_signal_to_torchrun_interrupts_both(tmp_path: Path) -> None:
    """On SIGTERM both finish their step, save a checkpoint, and record that they were interrupted."""
    process = start(tmp_path / "run", epochs=10**6)
    wait_until(lambda: (tmp_path / "run" / "best-model.pt").exists(), 90)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=120)
    assert [read_events(tmp_path / "run", rank)[-1].name for rank in (0, 1)] == ["run/interrupted"] * 2
    latest = list_checkpoints(tmp_path / "run")[0].label
    assert latest.step == read_events(tmp_path / "run")[-1].step


@pytest.mark.timeout(180)
def test_batch_norm_statistics_are_combined(tmp_path: Path) -> None:
    """With SWA both end with the statistics of all samples, although each has seen only half of them."""
    torchrun(SCRIPT, tmp_path / "run", 1, -1, "swa", seconds=120)
    saved = [torch.load(tmp_path / "run" / f"weights-{rank}.pt", weights_only=True) for rank in (0, 1)]
    assert all(torch.equal(saved[0][name], saved[1][name]) for name in saved[0])
    mean = torch.stack([point for point, _ in points(96)]).mean(dim=0)
    torch.testing.assert_close(saved[0]["0.running_mean"], mean, atol=1e-5, rtol=1e-5)


SEVERAL = """
import sys
from pathlib import Path
import torch
from torch import distributed, nn
from torch.utils.data import BatchSampler, SequentialSampler
torch.set_num_threads(1)
sys.path.insert(0, sys.argv[2])
from support.tiny_training import corpus, linear, make_trainer, train
from trainwire.checkpointing.checkpoint import list_checkpoints
from trainwire.training.model.modes import Modes
from trainwire.plugins.checkpoints import Checkpoints

folder, splits = Path(sys.argv[1]), corpus(train=96, dev=17)
distributed.init_process_group("gloo")
rank = distributed.get_rank()

def report(*words):
    sys.stdout.write(" ".join(map(str, words)) + "\\n")  # one write, since both processes share a pipe

def run(name, trainer, *plugins, **options):
    return train(folder / name, *plugins, trainer=trainer, corpus=splits, mini_batch_size=8, **options)

rates, trainer = [], make_trainer()

@trainer.on("after_training_batch")
def request_rate(batch):
    if rank == 1 and 3 <= batch.step < 13:
        trainer.control.set_learning_rate(1 / batch.step)
    rates.append(round(1 / trainer.run.optimizer.param_groups[0]["lr"]))

run("requests", trainer, Checkpoints(steps=5), max_epochs=5, attach_default_scheduler=False)
report("requests", rank, rates[-1])
if rank == 0:  # it writes the checkpoints; the other one does not wait for the disk
    report("requests saved", list_checkpoints(folder / "requests")[0].label.step)

model = nn.Sequential(nn.BatchNorm1d(4), linear())
result = run("norms", make_trainer(model), max_epochs=1, use_final_model_for_eval=True)
model.load_state_dict(torch.load(folder / "norms" / "final-model.pt", weights_only=True))
with Modes(model).evaluation():
    inputs, labels = splits.dev.tensors
    loss = float(nn.functional.cross_entropy(model(inputs), labels))
report("norms", rank, abs(loss - result.history[0]["dev/loss"]) < 1e-6)

result = run("sampler", make_trainer(), sampler=SequentialSampler, max_epochs=1)
report("sampler", rank, result.steps)

result = run(
    "batches", make_trainer(), batch_sampler=lambda data: BatchSampler(SequentialSampler(data), 16, False), max_epochs=1
)
report("batches", rank, result.steps, result.history[0]["train/loss"])

trainer = make_trainer()

@trainer.on("before_training_optimizer_step")
def skip(step):
    if rank == 1 and step.step == 2:
        trainer.control.skip_step()

try:
    run("skip", trainer, max_epochs=3)
except Exception as error:
    report("skip", rank, error)
"""


@pytest.mark.timeout(180)
def test_requests_of_one_process_apply_to_all(tmp_path: Path) -> None:
    """A request of one process applies to all; batch norms and samplers are shared; differing skips raise an error."""
    output = torchrun(SEVERAL, tmp_path / "runs", seconds=120)
    lines = sorted(re.findall(r"(?:requests|norms|sampler|skip) (?:\d|saved) .+", output))
    batches = re.findall(r"batches \d 3 (.+)", output)  # every other batch of the six, and the mean of both processes
    assert len(batches) == 2, output
    assert batches[0] == batches[1]
    assert lines == [
        "norms 0 True", "norms 1 True", "requests 0 12", "requests 1 12", "requests saved 30",
        "sampler 0 6", "sampler 1 6",
        "skip 0 skip_batch or skip_step was called in one process and not in another: call it in each",
        "skip 1 skip_batch or skip_step was called in one process and not in another: call it in each",
    ], output  # fmt: skip


BROKEN = """
import sys
from pathlib import Path
import torch
from torch import nn
torch.set_num_threads(1)
sys.path.insert(0, sys.argv[2])
from support.tiny_training import corpus, make_trainer, train

trainer = make_trainer(nn.Sequential(nn.Linear(4, 2000), nn.Linear(2000, 2)))

@trainer.on("before_training_batch")
def fail(batch):
    if trainer.run.processes.rank == 1 and batch.number == 3:
        raise ValueError("broken on purpose")

train(Path(sys.argv[1]), trainer=trainer, corpus=corpus(train=96), mini_batch_size=8)
"""


@pytest.mark.timeout(180)
def test_an_error_in_one_process_ends_both(tmp_path: Path) -> None:
    """The error is in the output and in the journal of its process; the other process does not hang."""
    code, output = finish_torchrun(start_torchrun(BROKEN, tmp_path / "run"), 120)
    assert code != 0
    assert "broken on purpose" in output
    last = read_events(tmp_path / "run", 1)[-1]
    assert (last.name, last.value["reason"]) == ("run/failed", "ValueError: broken on purpose")
