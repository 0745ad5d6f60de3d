"""Trainings that are killed or interrupted, and resumed."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.paths import TESTS
from support.resumed_trainings import Interrupt, weights
from support.run_reader import read_batches, wait_until
from support.tensorboard_server import has_data_server, shown_scalars, tensorboard
from support.tiny_training import corpus, points, train
from torch.utils.data import DataLoader, RandomSampler

from trainwire.checkpointing.checkpoint import list_checkpoints
from trainwire.plugins.checkpoints import Checkpoints
from trainwire_protocol.errors import OptionError
from trainwire_protocol.journal.attempts import read_resumed_from
from trainwire_protocol.journal.run_folder import list_attempts
from trainwire_sinks.cli.app import run
from trainwire_sinks.runtime.exit_codes import ExitCode

SCRIPT = """
import os, signal, sys
from pathlib import Path
import torch
torch.set_num_threads(1)
sys.path.insert(0, sys.argv[4])
from support.tiny_training import corpus, make_trainer, points, train
from torch import nn
from torch.optim import AdamW
from torch.utils.data import Dataset
from trainwire import Corpus
from trainwire.plugins.checkpoints import Checkpoints

class Noisy(Dataset):
    def __init__(self, count): self.points = points(count)
    def __len__(self): return len(self.points)
    def __getitem__(self, index):
        inputs, label = self.points[index]
        return inputs + 0.1 * torch.randn(4), label

folder, kill_at, workers = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
torch.manual_seed(5)
model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Dropout(0.3), nn.Linear(8, 2))
trainer = make_trainer(model)

@trainer.on("after_training_batch")
def kill(batch):
    if batch.step == kill_at:
        os.kill(os.getpid(), signal.SIGKILL)

result = train(
    folder, Checkpoints(steps=2), trainer=trainer, corpus=Corpus(Noisy(70), points(16, 1), points(16, 2)),
    optimizer=AdamW, learning_rate=0.01, use_amp="bf16", mini_batch_size=8, max_epochs=4, seed=11,
    num_workers=workers, resume=True,
)
print(result.steps, result.test_score)
"""


def run_script(folder: Path, kill_at: int = -1, workers: int = 0) -> int:
    """Start or resume a training in its own process, which kills itself at a step, and return the exit code."""
    command = [sys.executable, "-c", SCRIPT, str(folder), str(kill_at), str(workers), str(TESTS)]
    return subprocess.run(command, timeout=120, check=False, capture_output=True).returncode


def effective_scalars(folder: Path) -> list[tuple[str, int, Any]]:
    """Return name, step and value of the scalars of all attempts that are not superseded."""
    kept: list[Any] = []
    for attempt in list_attempts(folder, 0):
        resumed_from = read_resumed_from(attempt) if attempt.number else None
        kept = [batch for batch in kept if resumed_from is not None and batch.cursor <= resumed_from]
        kept += read_batches(folder, attempt=attempt.number)
    events = [event for batch in kept for event in batch.events if event.type in ("scalar", "scalars")]
    return [(event.name, event.step, event.value) for event in events]


@pytest.mark.timeout(300)
@pytest.mark.parametrize("workers", [0, 2])
def test_a_killed_training_equals_an_uninterrupted_one(tmp_path: Path, workers: int) -> None:
    """Killed at random steps and resumed, it has bitwise the same weights, `loss.tsv` and scalars."""
    kills = sorted(random.Random(workers).sample(range(4, 35), 1 if workers else 2))
    assert run_script(tmp_path / "whole", workers=workers) == 0
    for step in kills:
        assert run_script(tmp_path / "killed", step, workers) == -signal.SIGKILL
    assert run_script(tmp_path / "killed", workers=workers) == 0
    attempts = list_attempts(tmp_path / "killed", 0)
    assert len(attempts) == len(kills) + 1
    assert any(read_resumed_from(attempt) for attempt in attempts[1:])
    for name in ("final-model.pt", "best-model.pt"):
        whole, killed = (torch.load(tmp_path / place / name, weights_only=True) for place in ("whole", "killed"))
        assert all(torch.equal(whole[key], killed[key]) for key in whole), name
    assert effective_scalars(tmp_path / "killed") == effective_scalars(tmp_path / "whole")
    assert loss_rows(tmp_path / "killed") == loss_rows(tmp_path / "whole")
    if not workers:
        check_tensorboard(tmp_path)


def check_tensorboard(folder: Path) -> None:
    """Check that TensorBoard, with its default loader, shows the effective scalars of both runs and no others."""
    expected: dict[str, list[tuple[int, float]]] = {}
    for name, step, value in effective_scalars(folder / "whole"):
        numbers = enumerate(value) if isinstance(value, tuple) else [(None, value)]
        for index, number in numbers:
            tag = name if index is None else f"{name}/{index}"
            expected.setdefault(tag, []).append((step, float(np.float32(number))))
    for name in ("whole", "killed"):
        run_sink("tensorboard", folder / name)
    with tensorboard(folder, load_fast=has_data_server()) as address:
        for name in ("whole", "killed"):
            run_name = f"{name}/tensorboard/rank-0"
            wait_until(lambda: shown_scalars(address, run_name) == expected, 30)  # noqa: B023  # called now


def run_sink(name: str, folder: Path) -> None:
    """Run a sink on a run that has ended."""
    assert run(["sink", name, str(folder)]) == ExitCode.OK


def loss_rows(folder: Path) -> list[list[str]]:
    """Return the rows of `loss.tsv` without their timestamps, as written by a sink that is started now."""
    run_sink("loss-file", folder)
    rows = [line.split("\t") for line in (folder / "loss.tsv").read_text().splitlines()]
    return [[cell for name, cell in zip(rows[0], row, strict=True) if name != "TIMESTAMP"] for row in rows]


def test_an_interrupted_training_is_resumed_at_its_step(tmp_path: Path) -> None:
    """A signal saves a checkpoint, also in the middle of an epoch or at its last step."""
    whole = weights(tmp_path / "whole", ())
    for step in (1, 3, 5):
        folder = tmp_path / str(step)
        assert torch.equal(weights(folder, (Interrupt(step),), ()), whole), step
        assert [checkpoint.label.step for checkpoint in list_checkpoints(folder)] == [9, step]


def test_a_loader_of_the_user_is_resumed(tmp_path: Path) -> None:
    """A loader continues in the same order, whether it uses torch's generator or its own."""

    def loader(kind: str) -> dict[str, Any]:
        generator = torch.Generator().manual_seed(3) if kind == "own" else None
        data = points(48)
        return {"train": DataLoader(data, 8, sampler=RandomSampler(data, generator=generator), generator=generator)}

    for kind in ("own", "torch"):
        whole = weights(tmp_path / kind / "whole", (), **loader(kind))
        weights(tmp_path / kind / "parts", (Interrupt(8),), **loader(kind))
        assert torch.equal(weights(tmp_path / kind / "parts", (), **loader(kind)), whole), kind


@pytest.mark.filterwarnings("ignore:.*set_vital.*is deprecated:UserWarning")  # torchdata calls it
def test_a_stateful_loader_skips_batches_by_itself(tmp_path: Path) -> None:
    """A StatefulDataLoader of torchdata reads no batch a second time."""
    stateful = pytest.importorskip("torchdata.stateful_dataloader")

    class Counting(torch.utils.data.Dataset[Any]):
        reads = 0

        def __len__(self) -> int:
            return 48

        def __getitem__(self, index: int) -> Any:
            Counting.reads += 1
            return points(48)[index]

    def data() -> dict[str, Any]:
        return {"train": stateful.StatefulDataLoader(Counting(), 8, shuffle=True, generator=torch.Generator())}

    whole = weights(tmp_path / "whole", (), **data())
    weights(tmp_path / "parts", (Interrupt(8),), **data())
    Counting.reads = 0
    assert torch.equal(weights(tmp_path / "parts", (), **data()), whole)
    assert Counting.reads == 10 * 8


def test_a_damaged_checkpoint_is_replaced_by_the_previous_one(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A flipped bit is detected and reported, and the training resumes from the previous checkpoint."""
    whole = weights(tmp_path / "whole", ())
    folder = tmp_path / "parts"
    weights(folder, (Checkpoints(epochs=1), Interrupt(8)))
    latest, previous = list_checkpoints(folder)[:2]
    path = latest.folder / "rank-0.pt"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    assert torch.equal(weights(folder, ()), whole)
    assert f"{path} is damaged" in caplog.text
    assert f"resumed from {previous.folder.name}" in caplog.text


def test_without_a_checkpoint_a_training_starts_at_step_0(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """With `resume`, a missing checkpoint is reported in the log and is not an error."""
    assert torch.equal(weights(tmp_path / "a", ()), weights(tmp_path / "b", (), resume=False))
    assert "there is no checkpoint in" in caplog.text


@pytest.mark.parametrize(
    ("options", "message"), [({"seed": 2}, "seed is 2, but"), ({"mini_batch_size": 8}, "mini_batch_size is 8, but")]
)
def test_resuming_with_other_options_is_refused(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    """Options that would change the rest of the training raise an error."""
    train(tmp_path, Interrupt(2))
    with pytest.raises(OptionError, match=message):
        train(tmp_path, resume=True, **options)


def test_the_best_model_is_that_of_the_checkpoint(tmp_path: Path) -> None:
    """A better model that was saved after the checkpoint is discarded."""
    whole = tmp_path / "whole"
    train(whole, Checkpoints(epochs=1, keep_last=9), max_epochs=3, corpus=corpus(dev=40))
    first = list_checkpoints(whole)[-1]
    kept = torch.load(first.folder / "best-model.pt", weights_only=True)
    for later in list_checkpoints(whole)[:-1]:
        later.delete()
    train(whole, resume=True, max_epochs=1, corpus=corpus(dev=40))
    best = torch.load(whole / "best-model.pt", weights_only=True)
    assert torch.equal(best["weight"], kept["weight"])


def test_labels_are_readable(tmp_path: Path) -> None:
    """The label of a checkpoint is a JSON file in its folder."""
    train(tmp_path, Checkpoints(epochs=1), max_epochs=1)
    label = json.loads((list_checkpoints(tmp_path)[0].folder / "rank-0.json").read_text())
    assert (label["step"], label["epoch"], label["epoch_is_over"], label["world_size"]) == (3, 1, True, 1)
