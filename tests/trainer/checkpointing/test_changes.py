"""Resuming a training with other options."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from support.tiny_training import linear, make_trainer, points, train
from torch.optim import SGD, Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR, ExponentialLR, LambdaLR, OneCycleLR, ReduceLROnPlateau, StepLR

from trainwire import Plugin, hook
from trainwire.plugins.annealing import AnnealingOnPlateau
from trainwire.plugins.early_stopping import EarlyStopping
from trainwire.plugins.linear_schedule import LinearSchedule
from trainwire.plugins.torch_scheduler import TorchScheduler
from trainwire.training.hooks.payloads import AfterTrainingEpoch, BeforeTrainingOptimizerStep
from trainwire.training.plugin import Scheduler


class Rates(Plugin):
    """Keeps the learning rate, the weight decay and the momentum of each update."""

    def __init__(self) -> None:
        self.rates: list[float] = []
        self.settings: list[tuple[float, float]] = []

    @hook
    def before_training_optimizer_step(self, step: BeforeTrainingOptimizerStep) -> None:
        (group,) = self.run.optimizer.param_groups
        self.rates.append(group["lr"])
        self.settings.append((group["weight_decay"], group["momentum"]))


class Scores(Plugin):
    """Records an accuracy and a loss for each epoch."""

    before = ("BestModel",)

    def __init__(self, *scores: tuple[float, float]) -> None:
        self.scores = scores

    @hook
    def after_training_epoch(self, epoch: AfterTrainingEpoch) -> None:
        accuracy, loss = self.scores[epoch.epoch - 1]
        self.run.record_epoch({"dev/accuracy": accuracy, "dev/loss": loss})


def two_parts(folder: Path, make: Any, first: dict[str, Any], second: dict[str, Any]) -> list[float]:
    """Return the rates of epochs 3 and 4, one batch each, of a training that is resumed after epoch 2."""
    rates = Rates()
    given = {"train": points(16), "resume": True}
    train(folder, *make(), **given, **{"max_epochs": 2, **first})
    train(folder, *make(), rates, **given, **{"max_epochs": 4, **second})
    return rates.rates


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda: [Scheduler()], [0.2, 0.2]),
        (lambda: [AnnealingOnPlateau()], [0.2, 0.2]),
        (lambda: [LinearSchedule(0.0)], [0.2 * 2 / 4, 0.2 * 1 / 4]),
        (lambda: [TorchScheduler(lambda o: ExponentialLR(o, 0.5))], [0.05, 0.025]),
        (lambda: [TorchScheduler(lambda o: StepLR(o, 2))], [0.02, 0.02]),
        (lambda: [TorchScheduler(lambda o: LambdaLR(o, lambda epoch: 1 / (1 + epoch)))], [0.2 / 3, 0.2 / 4]),
        (lambda: [TorchScheduler(lambda o: CosineAnnealingLR(o, 4))], [0.1, 0.2 * (1 - 0.5**0.5) / 2]),
    ],
)  # fmt: skip
def test_a_new_learning_rate_counts(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, make: Any, expected: list[float]
) -> None:
    """It is the current rate, or the initial rate of a schedule that is computed from that; one line says so."""
    found = two_parts(tmp_path, make, {"learning_rate": 0.8}, {"learning_rate": 0.2})
    assert found == pytest.approx(expected)
    assert caplog.text.count("learning_rate 0.2 (was 0.8)") == 1


def test_a_schedule_with_rates_of_its_own_keeps_them(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A new learning rate has no effect then, which is reported; a longer schedule is continued as it was made."""

    def make(steps: int) -> Any:
        return lambda: [TorchScheduler(lambda o: OneCycleLR(o, 0.8, total_steps=steps), per="batch")]

    whole = Rates()
    train(tmp_path / "whole", *make(4)(), whole, train=points(16), max_epochs=4)
    rates = two_parts(tmp_path / "parts", make(4), {}, {"learning_rate": 0.2})
    assert rates == pytest.approx(whole.rates[2:])
    assert "learning_rate has no effect: OneCycleLR has learning rates of its own" in caplog.text
    train(tmp_path / "longer", *make(2)(), train=points(16), max_epochs=2)
    longer = Rates()
    train(tmp_path / "longer", *make(4)(), longer, train=points(16), max_epochs=4, resume=True)
    assert longer.rates[1] == pytest.approx(whole.rates[3])


def test_other_settings_of_the_optimizer_count(tmp_path: Path) -> None:
    """Those that were given anew replace the ones of the checkpoint, and the others are kept."""
    arguments = {"momentum": 0.5, "weight_decay": 0.1}
    train(tmp_path / "a", optimizer_arguments=arguments)
    rates = Rates()
    options = {"optimizer_arguments": arguments | {"weight_decay": 0.2}, "max_epochs": 3, "resume": True}
    train(tmp_path / "a", rates, **options)
    assert set(rates.settings) == {(0.2, 0.5)}


def test_another_schedule_starts_from_its_beginning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Its own rates count; schedules that are new, exchanged or gone are reported."""

    def exponential() -> list[Plugin]:
        return [TorchScheduler(lambda o: ExponentialLR(o, 0.5))]

    def one_cycle(o: Optimizer) -> OneCycleLR:
        return OneCycleLR(o, 0.4, total_steps=9)

    train(tmp_path / "a", *exponential(), train=points(16), learning_rate=0.4)
    first, again = Rates(), Rates()
    given = {"train": points(16), "learning_rate": 0.8, "max_epochs": 4}
    train(tmp_path / "a", TorchScheduler(one_cycle, per="batch"), first, resume=True, **given)
    train(tmp_path / "b", TorchScheduler(one_cycle, per="batch"), again, **given)
    assert first.rates == pytest.approx(again.rates[:2])
    assert "the schedule is now OneCycleLR, and was ExponentialLR" in caplog.text
    rates = Rates()
    train(tmp_path / "a", AnnealingOnPlateau(), rates, resume=True, **{**given, "max_epochs": 5})
    assert rates.rates == [0.8]
    assert "no state of the plugin AnnealingOnPlateau" in caplog.text
    assert "the state of the plugin TorchScheduler in the checkpoint is not used" in caplog.text


def test_scores_of_another_metric_are_not_compared(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The best model is chosen by the new metric, and kept if it is the best by that one too."""
    scores = Scores((0.9, 0.5), (0.8, 0.6), (0.7, 0.7), (0.6, 0.4))
    for name, loss in (("kept", 0.5), ("not", 0.8)):
        scores = Scores((0.9, loss), (0.8, 0.6), (0.7, 0.7), (0.6, 0.65))
        train(tmp_path / name, scores)
        options = {"max_epochs": 4, "main_evaluation_metric": "dev/loss", "resume": True}
        result = train(tmp_path / name, scores, **options)
        assert (result.best_epoch, result.best_score) == ((1, 0.5) if name == "kept" else (4, 0.65))
    assert "the main metric is now dev/loss (min), and was dev/accuracy (max)" in caplog.text
    assert "the best model is chosen among the epochs after step 6" in caplog.text


def test_stopping_and_schedules_compare_with_the_best_by_the_new_metric(tmp_path: Path) -> None:
    """Also if only the direction changes; the epochs before the checkpoint count."""
    scores = Scores((0.5, 1.0), (0.9, 1.0), (0.6, 1.0), (0.7, 1.0), (0.8, 1.0))
    train(tmp_path / "a", scores, EarlyStopping(1), max_epochs=2)
    options: dict[str, Any] = {"main_evaluation_mode": "min", "resume": True, "max_epochs": 5}
    assert train(tmp_path / "a", scores, EarlyStopping(1), **options).epochs == 4

    def plateau() -> Plugin:
        return TorchScheduler(lambda o: ReduceLROnPlateau(o, factor=0.5, patience=0))

    train(tmp_path / "b", scores, plateau(), max_epochs=2, learning_rate=0.8)
    result = train(tmp_path / "b", scores, plateau(), learning_rate=0.8, **options)
    assert [epoch["learning_rate"] for epoch in result.history] == [0.8, 0.8, 0.8, 0.4, 0.2]


def test_more_epochs_are_not_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """An unchanged training that is resumed for more epochs logs no warning; another limit of the gradients does."""
    train(tmp_path)
    caplog.clear()
    train(tmp_path, max_epochs=3, resume=True)
    assert not [record for record in caplog.records if record.levelname == "WARNING"]
    train(tmp_path, max_epochs=4, max_grad_norm=1.0, trainer=make_trainer(), resume=True)
    assert "max_epochs 4 (was 3), max_grad_norm 1.0 (was 5.0)" in caplog.text


def test_an_optimizer_with_another_rate_counts_too(tmp_path: Path) -> None:
    """The rate of an optimizer that is given as an object is a setting like any other."""
    found = []
    for epochs, rate in ((1, 0.5), (2, 0.25), (3, 0.25)):
        trainer = make_trainer()
        optimizer = SGD(trainer.model.parameters(), lr=rate)
        result = train(tmp_path, trainer=trainer, optimizer=optimizer, max_epochs=epochs, resume=True)
        found = [epoch["learning_rate"] for epoch in result.history]
    assert found == [0.5, 0.25, 0.25]


@pytest.mark.parametrize(("first", "second"), [((), ("dev", "test")), (("dev", "test"), ("test",)), (("dev",), ())])
def test_other_evaluation_splits_do_not_change_the_training(
    tmp_path: Path, first: tuple[str, ...], second: tuple[str, ...]
) -> None:
    def trained(folder: Path, epochs: int, splits: tuple[str, ...]) -> torch.Tensor:
        evaluated = {name: points(16, seed) for seed, name in enumerate(splits, start=1)}
        model = linear()
        options: dict[str, Any] = {"max_epochs": epochs, "attach_default_scheduler": False, "resume": True}
        train(folder, trainer=make_trainer(model), train=points(48), **evaluated, **options)
        return model.weight.detach()

    trained(tmp_path / "parts", 2, first)

    assert torch.equal(trained(tmp_path / "parts", 4, second), trained(tmp_path / "whole", 4, ()))
