"""The trial of the metrics with the first training batch."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from support.run_reader import read_events
from support.tiny_training import corpus, linear, make_trainer, points, train
from torch import Tensor, nn
from torch.utils.data import TensorDataset
from torchmetrics import MeanSquaredError, Metric, PearsonCorrCoef
from torchmetrics.classification import MulticlassAccuracy

from trainwire import ModelTrainer
from trainwire_protocol.errors import UsageError


class Parts(Metric):
    """A metric whose value is a map."""

    higher_is_better = True

    def __init__(self) -> None:
        super().__init__()
        self.add_state("seen", torch.zeros(()))

    def update(self, output: Tensor, target: Tensor) -> None:
        torch.rand(())
        self.seen += len(target)

    def compute(self) -> dict[str, Tensor]:
        return {"f1": self.seen * 0 + 0.5, "recall": self.seen * 0 + 0.25}


@pytest.mark.parametrize(
    ("metric", "message"),
    [
        (Parts(), "dev/metric is several numbers: set main_evaluation_metric to dev/metric/f1 or dev/metric/recall"),
        (
            MulticlassAccuracy(2, average=None),
            "dev/metric is a list of numbers: the main metric must be a single number",
        ),
    ],
)
def test_a_main_metric_of_several_numbers_is_refused_at_the_first_batch(
    tmp_path: Path, metric: Metric, message: str
) -> None:
    """The error is raised before the first update, and names the numbers from which to choose."""
    with pytest.raises(UsageError, match=message):
        train(tmp_path, trainer=make_trainer(metrics={"metric": metric}))
    assert read_events(tmp_path)[-1].step == 0


def test_one_number_of_a_map_can_be_the_main_metric(tmp_path: Path) -> None:
    """It is chosen by its name."""
    trainer = make_trainer(metrics={"parts": Parts()})
    assert train(tmp_path, trainer=trainer, main_evaluation_metric="dev/parts/recall").best_score == 0.25


@pytest.mark.parametrize("tried", [True, False])
def test_a_metric_that_fails_is_reported_at_the_first_batch(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, tried: bool
) -> None:
    """The warning names the metric and the error; `try_metrics=False` suppresses it."""
    trainer = make_trainer(metrics={"mse": MeanSquaredError()})

    @trainer.on("after_training_batch")
    def stop(batch: object) -> None:
        trainer.control.stop("enough")

    with caplog.at_level(logging.WARNING):
        train(tmp_path, trainer=trainer, train=points(16), dev=points(8), try_metrics=tried)
    found = [record.message for record in caplog.records if "the metric mse failed" in record.message]
    assert len(found) == tried
    assert not tried or "RuntimeError: Predictions and targets are expected to have the same shape" in found[0]


def test_a_model_may_return_something_else_in_training(tmp_path: Path) -> None:
    """A metric that fails only with the output in training mode is evaluated as usual."""

    class Auxiliary(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.main, self.other = linear(), linear()

        def forward(self, inputs: Tensor) -> Any:
            return (self.main(inputs), self.other(inputs)) if self.training else self.main(inputs)

    def loss(output: Any, target: Tensor) -> Tensor:
        parts = output if isinstance(output, tuple) else (output,)
        return sum((nn.functional.cross_entropy(part, target) for part in parts), torch.zeros(()))

    result = train(tmp_path, trainer=make_trainer(Auxiliary(), loss=loss), max_epochs=8, learning_rate=1.0)
    assert result.best_score is not None
    assert result.best_score > 0.8


@pytest.mark.filterwarnings("ignore:The variance of predictions")
def test_the_trial_has_no_side_effects(tmp_path: Path) -> None:
    """Neither random numbers nor scores change, and a metric that needs more samples is accepted."""
    data = TensorDataset(torch.randn(32, 4), torch.randn(32))

    def run(*, tried: bool) -> Any:
        torch.manual_seed(1)
        model = nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.5), nn.Linear(8, 1), nn.Flatten(0))
        metrics = {"correlation": PearsonCorrCoef(), "parts": Parts()}
        trainer = ModelTrainer(model, loss=nn.MSELoss(), metrics=metrics)
        options = {"train": data, "dev": data, "mini_batch_size": 1, "main_evaluation_metric": "dev/loss"}
        return train(tmp_path / str(tried), trainer=trainer, try_metrics=tried, **options)

    assert run(tried=True).history == run(tried=False).history


class Counted(TensorDataset):
    """Counts how often each sample is read."""

    def __init__(self, count: int) -> None:
        super().__init__(*points(count).tensors)
        self.reads = [0] * count

    def __getitem__(self, index: int) -> Any:
        self.reads[index] += 1
        return super().__getitem__(index)


def test_no_sample_is_read_but_by_training_and_evaluation(tmp_path: Path) -> None:
    """In two epochs each sample of train and dev is read twice, and each of test once."""
    train_split, dev, test = Counted(48), Counted(16), Counted(8)
    train(tmp_path, train=train_split, dev=dev, test=test)
    assert (set(train_split.reads), set(dev.reads), set(test.reads)) == ({2}, {2}, {1})


def test_an_evaluation_before_the_first_epoch_can_be_requested(tmp_path: Path) -> None:
    """A request in `after_setup` evaluates the dev split at step 0, which shows mistakes in it at once."""
    trainer = make_trainer()

    @trainer.on("after_setup")
    def evaluate_first(setup: object) -> None:
        trainer.control.evaluate()

    train(tmp_path, trainer=trainer, corpus=corpus(), max_epochs=1)
    assert [event.step for event in read_events(tmp_path) if event.name == "dev/loss"] == [0, 3]
