"""Two processes that train parameters of a loss, unfreeze parameters, or are interrupted in an evaluation."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from support.run_reader import read_events
from support.tiny_training import points
from support.torchrun import torchrun
from torch import nn
from torch.optim import SGD

from trainwire.checkpointing.checkpoint import list_checkpoints

HEAD = """
import os, signal, sys
from pathlib import Path
import torch
from torch import nn
from torch.utils.data import DataLoader
torch.set_num_threads(1)
sys.path.insert(0, sys.argv[2])
from support.tiny_training import make_trainer, points, train
folder, rank = Path(sys.argv[1]), int(os.environ["RANK"])

class Centres(nn.Module):
    def __init__(self):
        super().__init__()
        self.centres = nn.Parameter(torch.eye(2))
    def forward(self, output, target):
        return nn.functional.cross_entropy(output @ self.centres, target)

torch.manual_seed(3)
model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2))
loss = Centres()
trainer = make_trainer(model, loss=loss)
"""

UNFREEZE = (
    HEAD
    + """
model[0].requires_grad_(False)

@trainer.on("before_training_batch")
def change(batch):
    if batch.epoch == 2 and batch.number == 2:
        model[0].requires_grad_(True)
    if batch.epoch == 3 and batch.number == 1:
        model[1].requires_grad_(False)

train(folder, trainer=trainer, train=points(32), shuffle=False, mini_batch_size=8, max_epochs=3,
      attach_default_scheduler=False, max_grad_norm=None)
torch.save({"model": model.state_dict(), "loss": loss.state_dict()}, folder / f"all-{rank}.pt")
"""
)

INTERRUPT = (
    HEAD
    + """
class Dev(torch.utils.data.Dataset):
    def __len__(self): return 10 if rank == 0 else 400
    def __getitem__(self, index):
        if rank == 1 and index == 100:
            os.kill(os.getpid(), signal.SIGTERM)
        read.append(index)
        return points(1)[0]

read, split = [], sys.argv[3]
splits = {split: DataLoader(Dev(), 2)}
result = train(folder, trainer=trainer, train=points(32), max_epochs=3, **splits)
sys.stdout.write(f"{rank} {result.status} {result.steps} {max(read) < 200} {sorted(result.test_metrics)}\\n")
"""
)


@pytest.mark.timeout(180)
def test_gradients_of_a_loss_and_of_unfrozen_parameters_are_averaged(tmp_path: Path) -> None:
    """Both processes end with the weights of a loop in plain PyTorch over the batches of both."""
    torchrun(UNFREEZE, tmp_path / "run")
    torch.manual_seed(3)
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2))
    centres = nn.Parameter(torch.eye(2))
    model[0].requires_grad_(False)
    optimizer = SGD([*model.parameters(), centres], lr=0.1)
    inputs, labels = points(32).tensors
    for epoch in (1, 2, 3):
        for number, start in enumerate((0, 16), start=1):
            if (epoch, number) == (2, 2):
                model[0].requires_grad_(True)
            if (epoch, number) == (3, 1):
                model[1].requires_grad_(False)
            optimizer.zero_grad()
            output = model(inputs[start : start + 16]) @ centres
            nn.functional.cross_entropy(output, labels[start : start + 16]).backward()
            optimizer.step()
    for rank in (0, 1):
        saved = torch.load(tmp_path / "run" / f"all-{rank}.pt", weights_only=True)
        torch.testing.assert_close(dict(saved["model"]), dict(model.state_dict()), atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(saved["loss"]["centres"], centres.detach(), atol=1e-5, rtol=1e-4)


@pytest.mark.timeout(180)
@pytest.mark.parametrize(("split", "steps"), [("dev", 1), ("test", 3)])
def test_an_evaluation_is_interrupted_in_both(tmp_path: Path, split: str, steps: int) -> None:
    """Even if only one of them gets the signal, and the other one has read its fewer batches already."""
    output = torchrun(INTERRUPT, tmp_path / "run", split)
    lines = sorted(re.findall(r"^[01] .*$", output, flags=re.MULTILINE))
    assert lines == [f"{rank} interrupted {steps} True []" for rank in (0, 1)], output
    for rank in (0, 1):
        events = read_events(tmp_path / "run", rank)
        assert events[-1].name == "run/interrupted"
        assert not [event for event in events if event.name.startswith(f"{split}/")]
    if split == "dev":
        assert list_checkpoints(tmp_path / "run")[0].label.step == steps
