"""A loop with Accelerate; a script that torchrun starts."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import trainwire.integrations.accelerate  # noqa: F401  # registers the tracker


def train(folder: Path, log_with: Any = "trainwire", init_kwargs: dict[str, Any] | None = None) -> Accelerator:
    """Train for two epochs of five steps, and log the loss and a map of each step."""
    torch.manual_seed(1)
    accelerator = Accelerator(log_with=log_with, project_dir=folder, cpu=True)
    accelerator.init_trackers("mine", config={"learning_rate": 0.1, "layers": 1}, init_kwargs=init_kwargs)
    inputs = torch.randn(20, 4)
    data = DataLoader(TensorDataset(inputs, inputs.sum(1, keepdim=True)), batch_size=4)
    model = nn.Linear(4, 1)
    model, optimizer, data = accelerator.prepare(model, torch.optim.SGD(model.parameters(), lr=0.1), data)
    step = 0
    for epoch in range(2):
        for features, targets in data:
            step += 1
            loss = nn.functional.mse_loss(model(features), targets)
            accelerator.backward(loss)
            optimizer.step()
            optimizer.zero_grad()
            accelerator.log({"train/loss": loss.item(), "epoch": epoch}, step=step)
    accelerator.log({"note": "of **mine**"}, step=step)
    accelerator.end_training()
    return accelerator


if __name__ == "__main__":
    train(Path(sys.argv[1]))
