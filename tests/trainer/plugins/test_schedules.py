"""The plugins that set the learning rate."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from support.run_reader import read_events
from support.tiny_training import linear, make_trainer, points, train
from torch.optim.lr_scheduler import ExponentialLR, LambdaLR, ReduceLROnPlateau
from torch.utils.data import IterableDataset

from trainwire import Plugin, hook
from trainwire.plugins.annealing import AnnealingOnPlateau
from trainwire.plugins.linear_schedule import LinearSchedule
from trainwire.plugins.torch_scheduler import TorchScheduler
from trainwire.training.hooks.payloads import AfterEvaluation, AfterTrainingEpoch, BeforeTrainingOptimizerStep
from trainwire_protocol.errors import OptionError


class Scores(Plugin):
    """Replaces the accuracy and loss of each epoch on the dev split; the last ones are repeated."""

    before = ("BestModel", "AnnealingOnPlateau", "TorchScheduler")

    def __init__(self, *scores: tuple[float, float]) -> None:
        self.scores = scores

    @hook
    def after_training_epoch(self, epoch: AfterTrainingEpoch) -> None:
        accuracy, loss = self.scores[min(epoch.epoch, len(self.scores)) - 1]
        self.run.record_epoch({"dev/accuracy": accuracy, "dev/loss": loss})


class Rates(Plugin):
    """Records the learning rate of each update."""

    def __init__(self) -> None:
        self.rates: list[float] = []

    @hook
    def before_training_optimizer_step(self, step: BeforeTrainingOptimizerStep) -> None:
        self.rates.append(self.run.optimizer.param_groups[0]["lr"])


class Stream(IterableDataset[Any]):
    """Five points, without a known length."""

    def __iter__(self) -> Iterator[Any]:
        return iter(points(5))


def changes(folder: Path) -> list[tuple[float, float]]:
    events = [event.value for event in read_events(folder) if event.name == "learning_rate/changed"]
    assert all(value["reason"] for value in events)
    return [(value["from"], value["to"]) for value in events]


def rates_by_epoch(folder: Path, plugin: Plugin, *plugins: Plugin, **options: Any) -> list[Any]:
    result = train(folder, plugin, *plugins, **{"learning_rate": 0.8, "mini_batch_size": 48, **options})
    return [epoch["learning_rate"] for epoch in result.history]


def test_the_rate_is_halved_on_a_plateau(tmp_path: Path) -> None:
    """One epoch more than `patience` without improvement halves the rate, and resets the count."""
    rates = rates_by_epoch(tmp_path, AnnealingOnPlateau(patience=1), Scores((0.5, 1.0)), max_epochs=6)
    assert rates == [0.8, 0.8, 0.8, 0.4, 0.4, 0.2]
    assert changes(tmp_path) == [(0.8, 0.4), (0.4, 0.2)]


def test_extra_patience_before_the_first_change(tmp_path: Path) -> None:
    """The extra patience applies until the rate has been lowered once."""
    plugin = AnnealingOnPlateau(patience=0, initial_extra_patience=2)
    assert rates_by_epoch(tmp_path, plugin, Scores((0.5, 1.0)), max_epochs=6) == [0.8, 0.8, 0.8, 0.8, 0.4, 0.2]


def test_a_tie_is_broken_by_the_loss(tmp_path: Path) -> None:
    """The lower loss decides between equal scores only."""
    scores = Scores((0.5, 1.0), (0.5, 0.9), (0.4, 0.1), (0.5, 0.8))
    rates = rates_by_epoch(tmp_path, AnnealingOnPlateau(patience=0), scores, max_epochs=4)
    assert rates == [0.8, 0.8, 0.8, 0.4]


def test_training_stops_below_the_minimum_rate(tmp_path: Path) -> None:
    """A rate below the minimum is never used."""
    plugin = AnnealingOnPlateau(patience=0, min_learning_rate=0.2)
    result = train(tmp_path, plugin, Scores((0.5, 1.0)), learning_rate=0.8, max_epochs=50)
    assert result.reason.startswith("learning rate too small: it would be 0.1")
    assert result.epochs == 4


def test_an_initial_rate_below_the_minimum_does_not_stop_the_training(tmp_path: Path) -> None:
    """The minimum is then a tenth of the initial rate."""
    plugin = AnnealingOnPlateau(patience=0)
    assert train(tmp_path, plugin, Scores((0.5, 1.0)), learning_rate=5e-5, max_epochs=3).epochs == 3


def test_annealing_can_load_the_best_model(tmp_path: Path) -> None:
    """With `back_to_best`, the weights are those of the best epoch after the rate was lowered."""
    model = linear()

    class Compare(Plugin):
        after = ("AnnealingOnPlateau",)

        @hook(once=2)
        def after_training_epoch(self, epoch: AfterTrainingEpoch) -> None:
            best = torch.load(self.run.folder / "best-model.pt", weights_only=True)
            self.is_best = torch.equal(best["weight"], model.weight)

    for back, folder in ((True, "a"), (False, "b")):
        compare, plugin = Compare(), AnnealingOnPlateau(patience=0, back_to_best=back)
        scores = Scores((0.5, 1.0))
        train(tmp_path / folder, plugin, scores, compare, trainer=make_trainer(model), max_epochs=2)
        assert compare.is_best is back


def test_the_training_loss_is_used_without_a_dev_split(tmp_path: Path) -> None:
    """The rate is lowered if the training loss rises."""
    rates = rates_by_epoch(tmp_path, AnnealingOnPlateau(patience=0), train=points(48), learning_rate=1e4, max_epochs=8)
    assert rates[-1] < 1e4


def test_the_rate_rises_and_falls_linearly(tmp_path: Path) -> None:
    """The rate rises during the warm-up, and falls towards zero, which it does not reach."""
    rates = Rates()
    train(tmp_path, LinearSchedule(0.2), rates, learning_rate=0.6, mini_batch_size=24, max_epochs=5)
    assert rates.rates == pytest.approx([0.2, 0.4, 0.6, 0.525, 0.45, 0.375, 0.3, 0.225, 0.15, 0.075])
    recorded = [event.value for event in read_events(tmp_path) if event.name == "learning_rate"]
    assert recorded[0] == pytest.approx(0.4)


def test_a_linear_schedule_requires_the_number_of_updates(tmp_path: Path) -> None:
    """A stream of unknown length raises OptionError, unless `max_steps` is given."""
    with pytest.raises(OptionError, match="pass max_steps="):
        train(tmp_path / "a", LinearSchedule(), train=Stream())
    assert train(tmp_path / "b", LinearSchedule(), train=Stream(), max_steps=2).steps == 2


def test_any_torch_scheduler_is_stepped(tmp_path: Path) -> None:
    """Schedulers are stepped after each epoch, with an event for each change, or after each batch."""
    by_epoch = TorchScheduler(lambda optimizer: ExponentialLR(optimizer, 0.5))
    assert rates_by_epoch(tmp_path / "a", by_epoch, max_epochs=3) == [0.8, 0.4, 0.2]
    assert changes(tmp_path / "a") == [(0.8, 0.4), (0.4, 0.2), (0.2, 0.1)]
    by_name = TorchScheduler("ExponentialLR", arguments={"gamma": 0.5})
    assert rates_by_epoch(tmp_path / "by name", by_name, max_epochs=3) == [0.8, 0.4, 0.2]
    rates = Rates()
    by_batch = TorchScheduler(lambda optimizer: LambdaLR(optimizer, lambda step: 1 / (step + 1)), per="batch")
    train(tmp_path / "b", by_batch, rates, learning_rate=1.0, max_epochs=1)
    assert rates.rates == pytest.approx([1, 1 / 2, 1 / 3])
    plateau = TorchScheduler(lambda optimizer: ReduceLROnPlateau(optimizer, "max", 0.5, patience=0))
    assert rates_by_epoch(tmp_path / "c", plateau, Scores((0.5, 1.0)), max_epochs=3) == [0.8, 0.8, 0.4]


@pytest.mark.parametrize("make", [ReduceLROnPlateau, partial(ReduceLROnPlateau, factor=0.5, patience=1)])
@pytest.mark.parametrize("mode", ["max", "min"])
def test_a_plateau_scheduler_has_the_direction_of_the_main_metric(tmp_path: Path, make: Any, mode: Any) -> None:
    """It lowers the rate after the same epochs as one of torch alone with that mode."""
    accuracies = [3, 4, 5, 5, 5, 4, 4, 4, 4, 4, 4, 4, 4, 4, 4, 4]
    scores = Scores(*((accuracy, 1.0) for accuracy in accuracies))
    alone = torch.optim.SGD(linear().parameters(), lr=0.8)
    scheduler, expected = make(alone, mode=mode), []
    for accuracy in accuracies:
        expected.append(alone.param_groups[0]["lr"])
        scheduler.step(accuracy)
    options = {"max_epochs": len(accuracies), "main_evaluation_mode": mode}
    assert rates_by_epoch(tmp_path, TorchScheduler(make), scores, **options) == expected


@pytest.mark.parametrize("make", [lambda o: ReduceLROnPlateau(o, patience=0), partial(ReduceLROnPlateau, mode="min")])
def test_a_mode_that_is_replaced_is_reported(tmp_path: Path, caplog: pytest.LogCaptureFixture, make: Any) -> None:
    """The log names both modes, unless the class was given without one, or the modes are equal."""
    scores = Scores((1.0, 1.0), (2.0, 1.0), (3.0, 1.0), (4.0, 1.0))
    assert rates_by_epoch(tmp_path / "a", TorchScheduler(make), scores, max_epochs=4) == [0.8] * 4
    assert "is set to 'max' instead of 'min', as the main metric is dev/accuracy (max)" in caplog.text
    caplog.clear()
    train(tmp_path / "b", TorchScheduler(make), main_evaluation_metric="dev/loss")
    train(tmp_path / "c", TorchScheduler(ReduceLROnPlateau))
    assert "is set to" not in caplog.text
    with pytest.raises(OptionError, match="a main metric; pass dev= or main_evaluation_metric='train/loss'"):
        train(tmp_path / "d", TorchScheduler(make), train=points(16))


def test_a_small_improvement_does_not_count(tmp_path: Path) -> None:
    """With a `min_delta`, a score that rises slowly lowers the rate."""
    scores = Scores((0.5, 1.0), (0.55, 0.5), (0.58, 0.4), (0.7, 1.0), (0.7, 1.0))
    plugin = AnnealingOnPlateau(patience=1, min_delta=0.1)
    assert rates_by_epoch(tmp_path, plugin, scores, max_epochs=5) == [0.8, 0.8, 0.8, 0.4, 0.4]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: AnnealingOnPlateau(factor=1.0), "factor is 1.0"),
        (lambda: AnnealingOnPlateau(patience=-1), "must be at least 0"),
        (lambda: AnnealingOnPlateau(min_delta=float("inf")), "min_delta is inf"),
        (lambda: LinearSchedule(1.5), "warmup_fraction is 1.5"),
        (lambda: TorchScheduler(ExponentialLR, per="step"), "per is 'step'"),  # type: ignore[arg-type]  # the test
    ],
)
def test_invalid_arguments_are_refused(make: Any, message: str) -> None:
    """The error contains the name of the argument."""
    with pytest.raises(OptionError, match=message):
        make()


def test_a_function_that_returns_no_scheduler_is_refused(tmp_path: Path) -> None:
    """OptionError is raised before the first batch."""
    with pytest.raises(OptionError, match="which is not a scheduler"):
        train(tmp_path, TorchScheduler(lambda optimizer: None))  # type: ignore[arg-type, return-value]  # the test


def test_an_epoch_without_scores_does_not_change_the_rate(tmp_path: Path) -> None:
    """An epoch that was not evaluated is neither good nor bad."""

    class Forget(Plugin):
        @hook(split="dev")
        def after_evaluation(self, evaluation: AfterEvaluation) -> None:
            assert isinstance(evaluation.metrics, dict)
            evaluation.metrics.clear()

    assert rates_by_epoch(tmp_path, AnnealingOnPlateau(patience=0), Forget(), max_epochs=3) == [0.8] * 3
