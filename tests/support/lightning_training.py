"""A script that `trainwire launch` starts: trains and tests with Lightning, which logs to TensorBoard too."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer, seed_everything
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import TensorBoardLogger
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from trainwire.integrations.lightning import TrainwireLogger


class Classifier(LightningModule):
    """Tells whether the sum of four numbers is positive."""

    def __init__(self, learning_rate: float = 0.1, fails_at: int = -1, error: BaseException | None = None) -> None:
        super().__init__()
        self.save_hyperparameters(ignore="error")
        self.layer = nn.Linear(4, 2)
        self.error = error

    def loss(self, batch: list[Tensor], name: str) -> Tensor:
        inputs, labels = batch
        outputs = self.layer(inputs)
        loss = nn.functional.cross_entropy(outputs, labels)
        accuracy = (outputs.argmax(1) == labels).float().mean()
        self.log_dict({f"{name}/loss": loss, f"{name}/accuracy": accuracy})
        return loss

    def training_step(self, batch: list[Tensor], number: int) -> Tensor:
        if self.error is not None and self.global_step == self.hparams["fails_at"]:
            raise self.error
        loss = self.loss(batch, "train")
        self.log("train/mean", loss, on_step=False, on_epoch=True)
        return loss

    def validation_step(self, batch: list[Tensor], number: int) -> None:
        self.loss(batch, "val")

    def test_step(self, batch: list[Tensor], number: int) -> None:
        self.loss(batch, "test")

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=self.hparams["learning_rate"])


def batches() -> DataLoader[Any]:
    """Return five batches."""
    inputs = torch.randn(20, 4, generator=torch.Generator().manual_seed(0))
    return DataLoader(TensorDataset(inputs, (inputs.sum(1) > 0).long()), batch_size=4)


def make_trainer(folder: Path, *loggers: Any, **options: Any) -> Trainer:
    """Return a trainer for three epochs of five batches."""
    options = {"max_epochs": 3, "log_every_n_steps": 2, "accelerator": "cpu", "devices": 1, **options}
    quiet = {"enable_progress_bar": False, "enable_model_summary": False}
    return Trainer(default_root_dir=folder, logger=list(loggers), **quiet, **options)


if __name__ == "__main__":
    path = Path(sys.argv[1])
    seed_everything(1)
    ours = TrainwireLogger(path)
    theirs = TensorBoardLogger(path / "theirs", default_hp_metric=False)
    best = ModelCheckpoint(monitor="val/loss", save_top_k=1)
    trainer = make_trainer(path, ours, theirs, callbacks=[best])
    model = Classifier()
    trainer.fit(model, batches(), batches())
    trainer.test(model, batches(), verbose=False)
