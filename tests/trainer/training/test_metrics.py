"""Metrics by name, and the main metric."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torchmetrics import MeanSquaredError, MetricCollection
from torchmetrics.classification import BinaryAccuracy, BinaryF1Score, MulticlassConfusionMatrix

from trainwire.training.metrics import BestSoFar, MainMetric, Rank, main_metric, named_metrics, read_metric
from trainwire.training.options.options import TrainingOptions
from trainwire_protocol.errors import OptionError, UsageError

METRICS = {"accuracy": BinaryAccuracy(), "error": MeanSquaredError(), "confusion": MulticlassConfusionMatrix(2)}


def choose(name: str | None, splits: tuple[str, ...] = ("dev",), **options: Any) -> MainMetric | None:
    return main_metric(TrainingOptions(main_evaluation_metric=name, **options), METRICS, splits)


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
    """A metric that is not recorded cannot be the main metric."""
    with pytest.raises(OptionError, match=r"'dev/accuracies'; the recorded metrics are .*dev/accuracy, dev/error"):
        choose("dev/accuracies")
    with pytest.raises(OptionError, match="'test/accuracy'"):
        choose("test/accuracy")


def test_a_direction_can_be_given() -> None:
    """It replaces the metric's own, which may be missing; without one, epochs cannot be compared."""
    assert choose("dev/error", main_evaluation_mode="max") == MainMetric("dev/error", higher_is_better=True)
    assert choose("dev/loss", main_evaluation_mode="max") == MainMetric("dev/loss", higher_is_better=True)
    assert choose("dev/confusion", main_evaluation_mode="min") == MainMetric("dev/confusion", higher_is_better=False)
    unknown = choose("dev/confusion")
    assert unknown is not None
    assert str(unknown) == "dev/confusion (None)"
    with pytest.raises(OptionError, match=r"dev/confusion does not define .*: set main_evaluation_mode to 'max' or"):
        unknown.rank({"dev/confusion": 1.0})
    with pytest.raises(OptionError, match="main_evaluation_mode is 'max', but there is no main metric"):
        choose(None, (), main_evaluation_mode="max")


def test_a_part_of_a_metric_has_the_direction_of_that_metric() -> None:
    """The longest matching name decides, also if a metric's name begins or ends with that of another."""
    metrics: dict[str, Any] = {
        "f1": BinaryF1Score(), "f1/error": MeanSquaredError(), "micro_f1": MeanSquaredError(),
        "f1_error": METRICS["error"],
    }  # fmt: skip
    expected = {
        "f1": True,
        "f1/micro": True,
        "f1/error": False,
        "f1/error/a": False,
        "micro_f1": False,
        "f1_error": False,
    }
    for name, higher in expected.items():
        options = TrainingOptions(main_evaluation_metric=f"dev/{name}")
        assert main_metric(options, metrics, ["dev"]) == MainMetric(f"dev/{name}", higher_is_better=higher)
    with pytest.raises(OptionError, match="main_evaluation_metric is 'dev/f1_er'"):
        main_metric(TrainingOptions(main_evaluation_metric="dev/f1_er"), metrics, ["dev"])


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (torch.tensor(5), 5.0), (torch.tensor(True), 1.0), (torch.tensor(0.5, dtype=torch.bfloat16), 0.5), (3, 3.0),
        (False, 0.0), (np.float32(0.5), 0.5), (np.int64(7), 7.0), (np.bool_(True), 1.0), (np.array(2), 2.0),
        (torch.tensor([1, 2]), [1.0, 2.0]), (np.array([True, False]), [1.0, 0.0]), ((1, 0.5), [1.0, 0.5]),
    ],
)  # fmt: skip
def test_numbers_of_any_kind_become_floats(value: object, expected: float | list[float]) -> None:
    """Numbers of Python, NumPy and torch, and lists of them, have the same type in the history and the events."""
    (found,) = read_metric("m", value).values()
    assert (found, type(found)) == (expected, type(expected))
    assert all(type(item) is float for item in (found if isinstance(found, list) else [found]))
    assert read_metric("m", {"a": value}) == {"m/a": expected}


@pytest.mark.parametrize("value", ["0.5", None, torch.ones(2, 2), np.array(["a"]), torch.tensor(1j)])
def test_other_values_are_not_recorded(value: object, caplog: pytest.LogCaptureFixture) -> None:
    """The log names the metric."""
    assert read_metric("m", value) == {}
    assert "the metric m is not recorded" in caplog.text


def test_a_least_difference_is_required_of_an_improvement() -> None:
    """The score must exceed the best one by more than the difference, and the loss is not compared then."""
    ranks: list[Rank | None] = [(0.5, -1.0), (0.5, -0.1), (0.5625, 0.0), None, (0.59, 0.0), (0.7, 0.0), (0.75, 0.0)]
    best = BestSoFar(min_delta=0.0625)
    assert [best.update(rank) for rank in ranks] == [True, False, False, False, True, True, False]
    assert best.bad_epochs == 1
    exact = BestSoFar()
    assert [exact.update(rank) for rank in ranks] == [True, True, True, False, True, True, True]
    zero = BestSoFar()
    assert [zero.update((score, 0.0)) for score in (0.0, -0.0)] == [True, False]


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
