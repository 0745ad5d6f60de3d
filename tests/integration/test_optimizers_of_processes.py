"""Several optimizers, and one with a closure, in two processes: compared with one process and larger batches."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.torchrun import torchrun

SCRIPT = """
import os, sys
from pathlib import Path
import torch
from torch import nn
from torch.optim import LBFGS
from torch.utils.data import TensorDataset
torch.set_num_threads(1)
sys.path.insert(0, sys.argv[2])
from trainwire import Forward, ModelTrainer

folder, rank = Path(sys.argv[1]), int(os.environ["RANK"])

class Gan(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(3)
        self.generator = nn.Sequential(nn.Linear(2, 8), nn.ReLU(), nn.Linear(8, 2))
        self.critic = nn.Sequential(nn.Linear(2, 8), nn.ReLU(), nn.Linear(8, 1))

class GanTrainer(ModelTrainer):
    def forward_for(self, optimizer, batch):
        real, noise = batch
        fake = self.model.generator(noise)
        if optimizer == "critic":
            losses = self.model.critic(fake.detach()).square() + (self.model.critic(real) - 1).square()
        elif self.run.state.step % 2:
            return None
        else:
            losses = (self.model.critic(fake) - 1).square()
        return Forward(losses.mean())

class Weighted(ModelTrainer):
    def forward(self, batch):
        inputs, target, mask = batch
        return Forward(((self.model(inputs) - target) ** 2 * mask).sum() / mask.sum().clamp(min=1), weight=mask.sum())

def compare(name, make, data, **options):
    "Train in both processes, and in the first one alone with batches twice as large."
    trainers = [make(), make()]
    for trainer, size, together in zip(trainers, (8, 16), (True, False)):
        if together or rank == 0:
            trainer.train(
                folder / f"{name}-{together}", train=data, mini_batch_size=size, multi_gpu=together, shuffle=False,
                max_epochs=2, sinks=(), attach_default_scheduler=False, default_plugins=False, **options,
            )
    if rank == 0:
        pairs = zip(*(trainer.model.parameters() for trainer in trainers), strict=True)
        worst = max((one - other).abs().max().item() for one, other in pairs)
        sys.stdout.write(f"{name} {worst < 1e-5} {worst}\\n")

generator = torch.Generator().manual_seed(0)
points = TensorDataset(torch.randn(64, 2, generator=generator) + 3, torch.randn(64, 2, generator=generator))
adam = (torch.optim.Adam, {"lr": 0.01})
gan = {"critic": (torch.optim.SGD, {"lr": 0.1, "momentum": 0.9}), "generator": adam}
compare("gan", lambda: GanTrainer(Gan()), points, optimizer=gan, max_grad_norm=0.5)
compare("chunks", lambda: GanTrainer(Gan()), points, optimizer=gan, mini_batch_chunk_size=3)

mask = torch.rand(64, 1, generator=generator) > 0.5
numbers = torch.randn(64, 3, generator=generator).double()  # a line search enlarges errors of rounding
rows = TensorDataset(numbers[:, :2], numbers[:, 2:], mask)
search = {"line_search_fn": "strong_wolfe", "max_iter": 5}
def regression():
    torch.manual_seed(3)
    return Weighted(nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 1)).double())
compare("closure", regression, rows, optimizer=LBFGS, optimizer_arguments=search)
"""


@pytest.mark.timeout(200)
def test_two_processes_equal_one_with_a_batch_twice_as_large(tmp_path: Path) -> None:
    """This holds if an optimizer makes no update in some steps, with chunks, and for a line search over all batches."""
    output = torchrun(SCRIPT, tmp_path / "run")
    assert [line.split()[:2] for line in output.splitlines() if line.startswith(("gan", "chunks", "closure"))] == [
        ["gan", "True"],
        ["chunks", "True"],
        ["closure", "True"],
    ], output
