"""Metrics by name, and the main metric."""

from __future__ import annotations

import math
from typing import Any

import pytest
from torchmetrics import MeanSquaredError, MetricCollection
from torchmetrics.classification import BinaryAccuracy, BinaryF1Score, MulticlassConfusionMatrix

from trainwire.training.metrics import MainMetric, main_metric, named_metrics
from trainwire.training.options import TrainingOptions
from trainwire_protocol.errors import OptionError, UsageError

METRICS = {"accuracy": BinaryAccuracy(), "error": MeanSquaredError(), "confusion": MulticlassConfusionMatrix(2)}


def choose(name: str | None, splits: tuple[str, ...] = ("dev",)) -> MainMetric | None:
    return main_metric(TrainingOptions(main_evaluation_metric=name), METRICS, splits)


@pytest.mark.parametrize(
    ("given", "names"),
    [
        (None, []),
        ({"a": BinaryAccuracy()}, ["a"]),
        (BinaryAccuracy(), ["BinaryAccuracy"]),
        ([BinaryAccuracy(), BinaryF1Score()], ["BinaryAccuracy", "BinaryF1Score"]),
        (MetricCollection({"f1": BinaryF1Score(), "accuracy": BinaryAccuracy()}), ["accuracy", "f1"]),
    ],
)
def test_metrics_are_named(given: Any, names: list[str]) -> None:
    """A mapping names them; otherwise, they are named after their classes."""
    assert sorted(named_metrics(given)) == names


@pytest.mark.parametrize(
    "given", [{"a": 0.5}, {"loss": BinaryAccuracy()}, {"": BinaryAccuracy()}, [BinaryAccuracy(), BinaryAccuracy()]]
)
def test_an_invalid_metric_is_refused(given: Any) -> None:
    """A number, a duplicate name, and the reserved name `loss` are refused."""
    with pytest.raises(OptionError, match="metric"):
        named_metrics(given)


def test_the_main_metric_is_the_first_unless_named() -> None:
    """The metric defines its direction; lower is better for losses; without a dev split there is no main metric."""
    assert choose(None) == MainMetric("dev/accuracy", higher_is_better=True)
    assert choose("dev/error") == MainMetric("dev/error", higher_is_better=False)
    assert choose("dev/loss") == choose("dev/loss", ("dev", "test")) == MainMetric("dev/loss", higher_is_better=False)
    assert choose(None, ()) is None
    assert choose("train/loss", ()) == MainMetric("train/loss", higher_is_better=False)
    assert main_metric(TrainingOptions(), {}, ["dev"]) == MainMetric("dev/loss", higher_is_better=False)


def test_an_unknown_main_metric_is_refused_with_the_known_ones() -> None:
    """A metric that is not recorded, or has no direction, cannot be the main metric."""
    with pytest.raises(OptionError, match=r"'dev/accuracies'; the recorded metrics are .*dev/accuracy, dev/error"):
        choose("dev/accuracies")
    with pytest.raises(OptionError, match="'test/accuracy'"):
        choose("test/accuracy")
    with pytest.raises(OptionError, match="does not define whether higher is better"):
        choose("dev/confusion")


def test_epochs_are_ranked_by_score_and_then_by_loss() -> None:
    """The better score ranks higher, then the lower loss; NaN and a missing score have no rank."""
    accuracy = MainMetric("dev/accuracy", higher_is_better=True)
    error = MainMetric("dev/error", higher_is_better=False)
    ranks = [
        accuracy.rank({"dev/accuracy": score, "dev/loss": loss})
        for score, loss in [(0.5, 0.1), (0.9, math.nan), (0.9, 0.4), (0.9, 0.3), (1.0, 9.0)]
    ]
    assert ranks == sorted(ranks)
    assert len(set(ranks)) == 5
    assert error.rank({"dev/error": 0.1}) > error.rank({"dev/error": 0.2})  # type: ignore[operator]  # both have one
    assert accuracy.rank({"dev/accuracy": math.nan}) is None
    assert accuracy.rank({"train/loss": 1.0}) is None
    with pytest.raises(UsageError, match="list of 2 numbers"):
        accuracy.rank({"dev/accuracy": [0.5, 0.6]})
