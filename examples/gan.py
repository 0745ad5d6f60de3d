"""Train a generative adversarial network on points of a circle: two networks, each with an optimizer and a loss.

    python examples/gan.py [RUN_FOLDER] [--epochs N] [--resume]

The generator turns noise into points, and the critic learns to tell these from real ones. A penalty on the critic's
gradient keeps the two from chasing each other (Mescheder et al. 2018, "Which Training Methods for GANs do actually
Converge?"). The best model is the one whose points are closest to the real ones by the energy distance (Székely and
Rizzo 2013, "Energy statistics").
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus
from torch.optim import Adam
from torch.optim.lr_scheduler import LinearLR
from torch.utils.data import TensorDataset

from trainwire import Forward, ModelTrainer, Result
from trainwire.plugins.torch_scheduler import TorchScheduler

NOISE = 4


class Gan(nn.Module):
    """A generator of points, and a critic that returns a logit for each point: how real it looks."""

    def __init__(self) -> None:
        super().__init__()
        self.generator = network(NOISE, 2)
        self.critic = network(2, 1)

    def forward(self, count: int) -> Tensor:
        """Return generated points."""
        points: Tensor = self.generator(torch.randn(count, NOISE))
        return points


def network(inputs: int, outputs: int) -> nn.Module:
    hidden = [nn.Linear(inputs, 64), nn.LeakyReLU(0.2), nn.Linear(64, 64), nn.LeakyReLU(0.2)]
    return nn.Sequential(*hidden, nn.Linear(64, outputs))


class GanTrainer(ModelTrainer):
    """Trains the critic, and then the generator with the critic that was updated."""

    def forward_for(self, optimizer: str, batch: Any) -> Forward:
        """Return the loss of one of the two."""
        critic = self.model.get_submodule("critic")
        real = batch[0].requires_grad_()
        fake = self.model(len(real))
        if optimizer == "generator":
            return Forward(softplus(-critic(fake)).mean())
        scores = critic(real)
        (gradient,) = torch.autograd.grad(scores.sum(), real, create_graph=True)
        penalty = gradient.square().sum(dim=1).mean()
        return Forward((softplus(-scores) + softplus(critic(fake.detach()))).mean() + penalty)

    def forward(self, batch: Any) -> Forward:
        """Evaluate the generator: called for the dev split only."""
        real = batch[0]
        return Forward(energy_distance(real, self.model(len(real))))


def energy_distance(points: Tensor, others: Tensor) -> Tensor:
    """Return how different the distributions of two samples of points are: 0 if they are the same."""
    between = torch.cdist(points, others).mean()
    return 2 * between - torch.cdist(points, points).mean() - torch.cdist(others, others).mean()


def circle(count: int, seed: int) -> TensorDataset:
    """Return points near a circle with radius 2."""
    generator = torch.Generator().manual_seed(seed)
    angles = 2 * math.pi * torch.rand(count, generator=generator)
    points = 2 * torch.stack([angles.cos(), angles.sin()], dim=1)
    return TensorDataset(points + 0.1 * torch.randn(count, 2, generator=generator))


def train(folder: Path, epochs: int, *, resume: bool = False) -> Result:
    torch.manual_seed(1)
    schedules = [
        TorchScheduler(lambda optimizer: LinearLR(optimizer, 1.0, 0.1, epochs), optimizer=name)
        for name in ("critic", "generator")
    ]
    return GanTrainer(Gan(), plugins=schedules).train(
        folder, train=circle(2048, seed=1), dev=circle(1024, seed=2), mini_batch_size=64, eval_batch_size=1024,
        optimizer={
            "critic": (Adam, {"lr": 2e-3, "betas": (0.5, 0.9)}),
            "generator": (Adam, {"lr": 2e-3, "betas": (0.5, 0.9)}),
        },
        max_epochs=epochs, seed=1, resume=resume,
    )  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description="Train a generative adversarial network on points of a circle.")
    parser.add_argument("folder", nargs="?", type=Path, default=Path("runs/gan"), help="default: %(default)s")
    parser.add_argument("--epochs", type=int, default=10, help="number of epochs (default: %(default)s)")
    parser.add_argument("--resume", action="store_true", help="resume from the latest checkpoint in the folder")
    arguments = parser.parse_args()
    result = train(arguments.folder, arguments.epochs, resume=arguments.resume)
    first = result.history[0]["dev/loss"]
    print(f"energy distance {first:.3f} after the first epoch, {result.best_score:.3f} after epoch {result.best_epoch}")


if __name__ == "__main__":
    main()
