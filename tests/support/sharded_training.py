"""A training whose model has layers that can be sharded, for tests that start several processes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from support.tiny_training import corpus, make_trainer, train
from trainwire import ModelTrainer, Result


class Layer(nn.Module):
    """A layer with five rows, which neither two nor four processes can divide evenly."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.norm = nn.Linear(5, 5), nn.LayerNorm(5)

    def forward(self, inputs: Tensor) -> Tensor:
        """Add to the inputs."""
        result: Tensor = inputs + torch.tanh(self.norm(self.linear(inputs)))
        return result


class Layers(nn.Module):
    """Three layers between two others."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.first, self.last = nn.Linear(4, 5), nn.Linear(5, 2)
        self.layers = nn.ModuleList(Layer() for _ in range(3))

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the logits of two classes."""
        hidden = self.first(inputs)
        for layer in self.layers:
            hidden = layer(hidden)
        logits: Tensor = self.last(hidden)
        return logits


def layers_trainer(seed: int = 0, **arguments: Any) -> ModelTrainer:
    """Return a trainer of the layers, with initial weights that depend on the seed."""
    return make_trainer(Layers(seed), **arguments)


def train_layers(folder: Path, *plugins: Any, trainer: ModelTrainer | None = None, **options: Any) -> Result:
    """Train for two epochs on 80 samples: ten batches of eight in each, over all processes."""
    defaults: dict[str, Any] = {
        "corpus": corpus(train=80, dev=17), "mini_batch_size": 4, "learning_rate": 0.05,
        "optimizer_arguments": {"momentum": 0.9}, "max_grad_norm": 0.5, "attach_default_scheduler": False,
    }  # fmt: skip
    return train(folder, *plugins, trainer=trainer or layers_trainer(), **{**defaults, **options})
