"""The plugin that saves the best model."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.run_reader import read_events
from support.tiny_training import corpus, linear, make_trainer, train
from torch.utils.data import TensorDataset
from torchmetrics import Metric
from torchmetrics.classification import MulticlassAccuracy

from trainwire import Plugin, hook
from trainwire.plugins.best_model import BestModel
from trainwire.training.hooks.payloads import AfterTrainingEpoch
from trainwire.training.model.models import load_model
from trainwire_protocol.errors import OptionError, UsageError


class Scores(Plugin):
    """Records scores for each epoch, and sets the model's bias to the number of the epoch."""

    def __init__(self, **scores: list[float]) -> None:
        self.scores = scores

    @hook
    def after_training_epoch(self, epoch: AfterTrainingEpoch) -> None:
        metrics = {f"dev/{name}": values[epoch.epoch - 1] for name, values in self.scores.items()}
        self.run.record_epoch(metrics)
        torch.nn.init.constant_(self.run.model.bias, epoch.epoch)  # type: ignore[arg-type]  # a parameter


def bad_epochs(folder: Path) -> list[int]:
    return [event.value["bad_epochs"] for event in read_events(folder) if event.name == "epoch/finished"]


def test_the_weights_of_the_best_epoch_are_saved(tmp_path: Path) -> None:
    """An epoch is the best if its score is higher than all before; the epochs since are counted as bad."""
    scores = Scores(accuracy=[0.5, 0.4, math.nan, 0.9, 0.7], loss=[1.0] * 5)
    result = train(tmp_path, scores, BestModel(), max_epochs=5)
    assert (result.best_epoch, result.best_score) == (4, 0.9)
    assert bad_epochs(tmp_path) == [0, 1, 2, 0, 1]
    load_model(model := linear(), tmp_path / "best-model.pt")
    assert model.bias.tolist() == [4, 4]


def test_of_equal_scores_the_lower_loss_is_better(tmp_path: Path) -> None:
    """The loss of the split decides between equal scores; an epoch equal in both is not better."""
    scores = Scores(accuracy=[1.0, 1.0, 1.0, 1.0], loss=[0.5, 0.4, 0.4, 0.6])
    result = train(tmp_path, scores, BestModel(), max_epochs=4)
    assert result.best_epoch == 2
    assert bad_epochs(tmp_path) == [0, 0, 1, 2]


def test_lower_is_better_for_a_loss(tmp_path: Path) -> None:
    """The main metric defines whether higher is better."""
    scores = Scores(accuracy=[0.1, 0.2, 0.3], loss=[0.5, 0.3, 0.4])
    result = train(tmp_path, scores, BestModel(), max_epochs=3, main_evaluation_metric="dev/loss")
    assert (result.best_epoch, result.best_score) == (2, 0.3)


def test_a_least_difference_keeps_an_earlier_model(tmp_path: Path) -> None:
    """An epoch that is better by less than `min_delta` does not replace the best one."""
    scores = Scores(accuracy=[0.5, 0.55, 0.65, 0.7], loss=[1.0, 0.1, 1.0, 0.1])
    result = train(tmp_path, scores, BestModel(min_delta=0.1), max_epochs=4)
    assert (result.best_epoch, result.best_score) == (3, 0.65)
    with pytest.raises(OptionError, match="BestModel: min_delta is -1"):
        BestModel(min_delta=-1)


class Mistakes(Metric):
    """Counts the wrong answers, a whole number, and does not define whether higher is better."""

    wrong: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("wrong", torch.tensor(0), dist_reduce_fx="sum")

    def update(self, output: torch.Tensor, target: torch.Tensor) -> None:
        self.wrong += (output.argmax(1) != target).sum()

    def compute(self) -> torch.Tensor:
        return self.wrong


def test_a_metric_without_a_direction_is_given_one(tmp_path: Path) -> None:
    """Only plugins that compare epochs require it; the counts and the best one equal those computed with torch."""
    with pytest.raises(OptionError, match=r"dev/mistakes does not define .* set main_evaluation_mode"):
        train(tmp_path / "a", trainer=make_trainer(metrics={"mistakes": Mistakes()}))
    assert not (tmp_path / "a").exists()
    options: dict[str, Any] = {"default_plugins": False, "attach_default_scheduler": False}
    result = train(tmp_path / "b", trainer=make_trainer(metrics={"mistakes": Mistakes()}), **options)
    assert (result.best_epoch, result.test_score) == (None, result.test_metrics["test/mistakes"])

    dev, counts = corpus().dev, []
    assert isinstance(dev, TensorDataset)
    inputs, labels = dev.tensors
    trainer = make_trainer(model := linear(), metrics={"mistakes": Mistakes()})

    @trainer.on("after_training_epoch")
    def count(epoch: AfterTrainingEpoch) -> None:
        with torch.no_grad():
            counts.append(int((model(inputs).argmax(1) != labels).sum()))

    result = train(tmp_path / "c", trainer=trainer, main_evaluation_mode="min", max_epochs=6, learning_rate=1.0)
    assert [epoch["dev/mistakes"] for epoch in result.history] == counts
    assert len(set(counts)) > 1
    assert result.best_score == min(counts)


def test_a_recorded_score_of_numpy_is_compared(tmp_path: Path) -> None:
    """Numbers of NumPy and torch that a plugin records for the epoch are scores like any other."""

    class Score(Plugin):
        before = ("BestModel",)

        @hook
        def after_training_epoch(self, epoch: AfterTrainingEpoch) -> None:
            score: Any = [np.int64(1), torch.tensor(3), np.float32(2)][epoch.epoch - 1]
            self.run.record_epoch({"dev/accuracy": score, "dev/parts": {"a": score}})

    result = train(tmp_path, Score(), max_epochs=3)
    assert (result.best_epoch, result.best_score) == (2, 3.0)
    assert [epoch["dev/parts/a"] for epoch in result.history] == [1.0, 3.0, 2.0]
    assert all(type(value) is float for epoch in result.history for value in epoch.values())


def test_a_second_training_starts_without_a_best_model(tmp_path: Path) -> None:
    """The scores of a previous training with the same plugin are not compared."""
    plugin = BestModel()
    train(tmp_path / "a", Scores(accuracy=[0.9], loss=[1.0]), plugin, max_epochs=1)
    result = train(tmp_path / "b", Scores(accuracy=[0.1], loss=[1.0]), plugin, max_epochs=1)
    assert result.best_epoch == 1


def test_an_epoch_without_scores_is_neither_best_nor_bad(tmp_path: Path) -> None:
    """A training that is stopped in its first epoch has no best model, and tests the final one."""
    trainer = make_trainer()
    trainer.on("after_training_batch")(lambda batch: trainer.control.stop("enough"))
    result = train(tmp_path, trainer=trainer)
    assert (result.best_epoch, bad_epochs(tmp_path)) == (None, [0])
    assert result.test_score is not None


def test_a_main_metric_that_is_a_list_is_refused(tmp_path: Path) -> None:
    """UsageError is raised before the training begins."""
    trainer = make_trainer(metrics={"recall": MulticlassAccuracy(2, average=None)})
    with pytest.raises(UsageError, match="dev/recall is a list of numbers"):
        train(tmp_path, trainer=trainer, corpus=corpus())
