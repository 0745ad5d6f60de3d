"""Which epochs count: those that a plugin ends do, and those that a stop, a signal or an error cuts short do not."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from support.run_reader import read_events
from support.tiny_training import linear, make_trainer, points, train
from torch import Tensor, nn
from torch.optim import SGD
from torch.optim.lr_scheduler import CosineAnnealingLR, ExponentialLR, LRScheduler, MultiStepLR
from torch.utils.data import DataLoader, IterableDataset

from trainwire import ModelTrainer, Plugin, Result, hook
from trainwire.checkpointing.checkpoint import list_checkpoints
from trainwire.plugins.annealing import AnnealingOnPlateau
from trainwire.plugins.checkpoints import Checkpoints
from trainwire.plugins.early_stopping import EarlyStopping
from trainwire.plugins.epoch_models import EpochModels
from trainwire.plugins.swa import SWA
from trainwire.plugins.torch_scheduler import TorchScheduler
from trainwire.training.hooks.payloads import AfterTrainingBatch, AfterTrainingEpoch


class Endless(IterableDataset[Any]):
    """The same 48 points over and over, as a stream without an end."""

    def __iter__(self) -> Iterator[Any]:
        while True:
            yield from points(48)


class Limit(Plugin):
    """Ends each epoch after three batches, and keeps the weights at its end."""

    def __init__(self) -> None:
        self.weights: list[Tensor] = []

    @hook
    def after_training_batch(self, batch: AfterTrainingBatch) -> None:
        if batch.number == 3:
            self.run.control.end_epoch()

    @hook
    def after_training_epoch(self, epoch: AfterTrainingEpoch) -> None:
        self.weights.append(next(self.run.model.parameters()).detach().clone())


def train_on_stream(folder: Path, *plugins: Plugin, trainer: ModelTrainer | None = None, **options: Any) -> Result:
    """Train on the stream in epochs of three batches."""
    return train(folder, Limit(), *plugins, trainer=trainer, train=DataLoader(Endless(), 16), **options)


def completeness(folder: Path) -> list[bool]:
    return [event.value["complete"] for event in read_events(folder) if event.name == "epoch/finished"]


@pytest.mark.parametrize(
    "make",
    [
        lambda optimizer: CosineAnnealingLR(optimizer, T_max=4),
        lambda optimizer: MultiStepLR(optimizer, [1, 3], 0.5),
        lambda optimizer: ExponentialLR(optimizer, 0.9),
    ],
)
def test_schedulers_count_epochs_that_a_plugin_ends(tmp_path: Path, make: Callable[[SGD], LRScheduler]) -> None:
    """The rates are those of a loop in plain PyTorch that steps the scheduler after every three batches."""
    result = train_on_stream(tmp_path, TorchScheduler(make), max_epochs=4)
    optimizer = SGD(linear().parameters(), 0.1)
    scheduler, expected = make(optimizer), []
    for _ in range(4):
        expected.append(scheduler.get_last_lr()[0])
        optimizer.step()
        scheduler.step()
    assert [row["learning_rate"] for row in result.history] == pytest.approx(expected)
    assert completeness(tmp_path) == [True] * 4


def test_weights_of_epochs_that_a_plugin_ends_are_averaged(tmp_path: Path) -> None:
    """SWA averages them and anneals the rate; the statistics of a batch norm are those of the last epoch's batches."""
    model = nn.Sequential(nn.BatchNorm1d(4), linear())
    limit, averaging = Limit(), SWA(2, learning_rate=0.4, anneal_epochs=2, anneal_strategy="linear")
    options = {"max_epochs": 4, "attach_default_scheduler": False, "train": DataLoader(Endless(), 16)}
    result = train(tmp_path, limit, averaging, trainer=make_trainer(model), **options)
    assert [row["learning_rate"] for row in result.history] == pytest.approx([0.1, 0.1, 0.25, 0.4])
    torch.testing.assert_close(next(model.parameters()).detach(), torch.stack(limit.weights[1:]).mean(0))
    torch.testing.assert_close(model.get_buffer("0.running_mean"), points(48).tensors[0].mean(0))


def test_decisions_count_epochs_that_a_plugin_ends(tmp_path: Path) -> None:
    """So do early stopping and annealing, here by a training loss that cannot improve, and models and checkpoints."""
    plugins = (EarlyStopping(2), AnnealingOnPlateau(0.5, 0), EpochModels(2), Checkpoints(epochs=2, keep_last=9))
    result = train_on_stream(
        tmp_path, *plugins, trainer=make_trainer(loss=lambda output, target: output.sum() * 0 + 1),
        max_epochs=9, main_evaluation_metric="train/loss",
    )  # fmt: skip
    assert (result.epochs, result.best_epoch) == (4, 1)
    assert [row["learning_rate"] for row in result.history] == pytest.approx([0.1, 0.1, 0.05, 0.025])
    assert sorted(path.name for path in tmp_path.glob("model-epoch-*")) == ["model-epoch-2.pt", "model-epoch-4.pt"]
    assert 6 in {checkpoint.label.step for checkpoint in list_checkpoints(tmp_path)}


@pytest.mark.parametrize(("step", "complete"), [(5, [True, False]), (6, [True, False])])
def test_an_epoch_that_is_stopped_does_not_count(tmp_path: Path, step: int, complete: list[bool]) -> None:
    """Neither for schedulers nor for averages, even if it is stopped at its last batch, before it is evaluated."""
    trainer = make_trainer()

    @trainer.on("after_training_batch", once=step)
    def stop(batch: AfterTrainingBatch) -> None:
        trainer.control.stop("enough")

    limit, scheduler = Limit(), TorchScheduler(lambda optimizer: ExponentialLR(optimizer, 0.5))
    train(tmp_path, limit, scheduler, SWA(1), EpochModels(), trainer=trainer, max_epochs=4)
    assert completeness(tmp_path) == complete
    assert trainer.model.get_parameter("weight").equal(limit.weights[0])
    assert scheduler.scheduler is not None
    assert scheduler.scheduler.last_epoch == 1
    assert not (tmp_path / "model-epoch-2.pt").exists()


def test_the_epoch_that_reaches_max_steps_counts(tmp_path: Path) -> None:
    """It is the last one of the training as planned, and is evaluated."""
    limit = Limit()
    train(tmp_path, limit, SWA(1), trainer=make_trainer(model := linear()), max_steps=4, use_final_model_for_eval=True)
    assert completeness(tmp_path) == [True, True]
    torch.testing.assert_close(model.weight.detach(), torch.stack(limit.weights).mean(0))
