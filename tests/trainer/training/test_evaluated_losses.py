"""Evaluations weight the losses of batches by themselves, with or without a training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from support.tiny_training import linear, train
from torch import nn
from torch.nn import functional
from torch.utils.data import TensorDataset

from trainwire import Forward, ModelTrainer
from trainwire.training.hooks.payloads import Result


def partly_ignored() -> TensorDataset:
    """Return samples of which the first batches have fewer targets than the last one."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 2, (24,), generator=generator)
    labels[:7] = labels[8:10] = -100
    return TensorDataset(torch.randn(24, 4, generator=generator), labels)


class Own(ModelTrainer):
    """Computes a loss of torch in `forward`."""

    def forward(self, batch: Any) -> Forward:
        output = self.model(batch[0])
        return Forward(functional.cross_entropy(output, batch[1]), output, batch[1])


class OtherInTraining(Own):
    """Trains with a loss that is weighted in another way."""

    def forward_for(self, optimizer: str, batch: Any) -> Forward | None:
        output, target = self.model(batch[0]), batch[0][:, :2]
        return Forward(functional.mse_loss(output, target), output, target)


def mean_over_targets(model: nn.Module) -> float:
    inputs, labels = partly_ignored().tensors
    return functional.cross_entropy(model(inputs), labels).item()


def test_an_evaluation_needs_no_training() -> None:
    """The loss is the mean over the targets of all batches, whether or not the parameters are frozen."""
    model = linear()
    nn.init.normal_(model.weight, std=3, generator=torch.Generator().manual_seed(1))
    for is_trained in (True, False):
        loss = Own(model.requires_grad_(is_trained)).evaluate(partly_ignored(), mini_batch_size=8)["loss"]
        assert abs(float(loss) - mean_over_targets(model)) < 1e-6  # type: ignore[arg-type]  # one number


def train_own(folder: Path, trainer: ModelTrainer, **options: Any) -> Result:
    data = partly_ignored()
    return train(
        folder, trainer=trainer, train=data, dev=data, shuffle=False, mini_batch_size=8, max_epochs=1, **options
    )


def test_an_evaluation_does_not_use_the_loss_of_the_training(tmp_path: Path) -> None:
    """With another loss in `forward_for`, evaluations still have the weights of `forward`."""
    trainer = OtherInTraining(linear())
    result = train_own(tmp_path, trainer)
    assert abs(float(result.history[-1]["dev/loss"]) - mean_over_targets(trainer.model)) < 1e-6  # type: ignore[arg-type]


def test_an_interrupted_evaluation_is_repeated_exactly(tmp_path: Path) -> None:
    """A training that is resumed in the evaluation has trained no batch before it."""
    expected = train_own(tmp_path / "whole", Own(linear()))
    trainer = Own(linear())
    trainer.on("before_evaluation")(lambda _: trainer.control.interrupt("SIGTERM"))
    assert train_own(tmp_path / "resumed", trainer).status == "interrupted"
    resumed = train_own(tmp_path / "resumed", Own(linear()), resume=True)
    assert resumed.history[-1]["dev/loss"] == expected.history[-1]["dev/loss"]
