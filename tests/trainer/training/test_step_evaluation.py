"""Evaluations within epochs, and models that are saved at steps."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from support.resumed_trainings import Die, Interrupt
from support.run_reader import read_events
from support.tiny_training import Recorder, linear, make_trainer, points, train
from torch import Tensor
from torch.nn import functional
from torch.optim.lr_scheduler import ReduceLROnPlateau
from torch.utils.data import DataLoader, IterableDataset

from trainwire import Plugin, Result, hook
from trainwire.plugins.annealing import AnnealingOnPlateau
from trainwire.plugins.checkpoints import Checkpoints
from trainwire.plugins.early_stopping import EarlyStopping
from trainwire.plugins.ema import EMA
from trainwire.plugins.torch_scheduler import TorchScheduler
from trainwire.training.hooks.payloads import (
    AfterStepEvaluation,
    AfterTrainingBatch,
    AfterTrainingEpoch,
    BeforeEvaluation,
    BeforeTrainingBatch,
    Scored,
)
from trainwire_protocol.errors import OptionError


class Weights(Plugin):
    """Keeps the weights after each step."""

    def __init__(self) -> None:
        self.of_step: dict[int, Tensor] = {}

    @hook
    def after_training_batch(self, batch: AfterTrainingBatch) -> None:
        self.of_step[batch.step] = self.run.model.get_parameter("weight").detach().clone()


class Accuracies(Plugin):
    """Replaces the accuracy of each evaluation, by its step."""

    before = ("BestModel",)

    def __init__(self, of_step: dict[int, float]) -> None:
        self.of_step = of_step

    @hook("after_step_evaluation", "after_training_epoch")
    def replace(self, evaluated: Scored) -> None:
        evaluated.metrics["dev/accuracy"] = self.of_step.get(self.run.state.step, 0.5)


class Unsized(IterableDataset[Any]):
    """48 points, without a length."""

    def __iter__(self) -> Any:
        return iter(points(48))


def names_of(folder: Path, *names: str) -> list[tuple[str, int]]:
    return [(event.name, event.step) for event in read_events(folder) if event.name in names]


def marks(result: Result) -> list[tuple[int, int, bool]]:
    return [(each.epoch, each.step, each.ends_epoch) for each in result.history]


def test_evaluations_within_epochs_are_recorded(tmp_path: Path) -> None:
    """They are in the history and on the wire, and one at the end of an epoch is a part of that."""
    recorder, weights = Recorder(), Weights()
    result = train(tmp_path, recorder, weights, evaluate_each_k_steps=2)
    assert marks(result) == [(1, 2, False), (1, 3, True), (2, 4, False), (2, 6, True)]
    order = names_of(tmp_path, "evaluation/finished", "epoch/evaluated", "epoch/finished")
    assert order == [
        ("evaluation/finished", 2), ("epoch/evaluated", 2), ("evaluation/finished", 3), ("epoch/finished", 3),
        ("evaluation/finished", 4), ("epoch/evaluated", 4), ("evaluation/finished", 6), ("epoch/finished", 6),
        ("evaluation/finished", 6),
    ]  # fmt: skip
    event: Any = next(event.value for event in read_events(tmp_path) if event.name == "epoch/evaluated")
    assert (event["epoch"], event["batch"], event["batches"], event["bad_epochs"]) == (1, 2, 3, 0)
    assert event["best"] == {
        "epoch": 1,
        "step": 2,
        "metric": "dev/accuracy",
        "score": result.history[0]["dev/accuracy"],
    }
    assert event["metrics"] == result.history[0]
    assert event["metrics"]["learning_rate"] == 0.1
    assert [(each.epoch, each.number, each.step) for each in recorder.of(AfterStepEvaluation)] == [(1, 2, 2), (2, 1, 4)]
    inputs, labels = points(16, 1).tensors
    trained = functional.cross_entropy(inputs @ weights.of_step[4].T, labels)
    assert result.history[2]["dev/loss"] == pytest.approx(trained.item(), abs=0.05)  # the bias is missing


def test_nothing_is_evaluated_before_the_first_update(tmp_path: Path) -> None:
    """The first batches may be skipped, and the weights are then those that the model began with."""

    class SkipTwo(Plugin):
        @hook
        def before_training_batch(self, batch: BeforeTrainingBatch) -> None:
            if (batch.epoch, batch.number) in ((1, 1), (1, 2)):
                self.run.control.skip_batch()

    result = train(tmp_path, SkipTwo(), evaluate_each_k_steps=2)
    assert marks(result) == [(1, 1, True), (2, 2, False), (2, 4, True)]


def test_a_step_that_turns_out_to_be_the_last_is_evaluated_once(tmp_path: Path) -> None:
    """Plugins count it once, and the history has it as the epoch's end."""
    recorder, stopping = Recorder(), EarlyStopping(2, min_delta=0.01)
    result = train(
        tmp_path, recorder, Accuracies({}), stopping, train=DataLoader(Unsized(), 16), dev=points(16, 1), max_epochs=3,
        evaluate_each_k_steps=3,
    )  # fmt: skip
    assert marks(result) == [(1, 3, True), (2, 6, True), (3, 9, True)]
    assert len(names_of(tmp_path, "evaluation/finished")) == 3
    assert [epoch.repeated for epoch in recorder.of(AfterTrainingEpoch)] == [True] * 3
    assert [len(epoch.metrics) for epoch in recorder.of(AfterTrainingEpoch)] == [5] * 3
    assert result.reason == "max_epochs reached: 3"  # the second and the third are two without improvement


def test_the_best_model_may_be_that_of_a_step(tmp_path: Path) -> None:
    """It is saved, tested and returned, and `best_step` says which it is."""
    weights = Weights()
    trainer = make_trainer(linear())
    result = train(tmp_path, weights, Accuracies({4: 0.9}), trainer=trainer, evaluate_each_k_steps=2)
    assert (result.best_epoch, result.best_step, result.best_score) == (2, 4, 0.9)
    assert torch.equal(torch.load(tmp_path / "best-model.pt", weights_only=True)["weight"], weights.of_step[4])
    assert torch.equal(trainer.model.get_parameter("weight"), weights.of_step[4])


def test_patience_counts_evaluations(tmp_path: Path) -> None:
    """Early stopping ends the training within an epoch, and the schedules lower the rate there."""
    options: dict[str, Any] = {"evaluate_each_k_steps": 1, "max_epochs": 3}
    result = train(tmp_path / "a", Accuracies({2: 0.9}), EarlyStopping(3), **options)
    assert (result.steps, result.reason) == (6, "dev/accuracy has not improved for 4 evaluations")
    result = train(tmp_path / "b", Accuracies({2: 0.9}), EarlyStopping(2), **options)
    assert (result.steps, marks(result)[-2:]) == (5, [(2, 5, False), (2, 5, True)])
    plugins = (
        AnnealingOnPlateau(0.5, 0),
        TorchScheduler(lambda optimizer: ReduceLROnPlateau(optimizer, factor=0.5, patience=0)),
    )
    for number, plugin in enumerate(plugins):
        loss = {"loss": lambda output, target: output.sum() * 0 + 1}
        result = train(
            tmp_path / str(number), plugin, trainer=make_trainer(**loss), main_evaluation_metric="dev/loss",
            max_epochs=2, evaluate_each_k_steps=2,
        )  # fmt: skip
        assert [each["learning_rate"] for each in result.history] == [0.1, 0.1, 0.05, 0.025]


class InterruptTest(Plugin):
    """Raises SIGTERM in the evaluation of the test split at a step, after that of dev."""

    def __init__(self, step: int) -> None:
        self.step = step

    @hook(split="test")
    def before_evaluation(self, evaluation: BeforeEvaluation) -> None:
        if self.run.state.step == self.step:
            signal.raise_signal(signal.SIGTERM)


class Noise(Plugin):
    """Changes the weights by random numbers, as dropout would."""

    @hook
    def after_training_batch(self, batch: AfterTrainingBatch) -> None:
        with torch.no_grad():
            self.run.model.get_parameter("weight").add_(torch.randn(2, 4), alpha=0.01)


@pytest.mark.parametrize(
    "plugins",
    [
        *[(Interrupt(step),) for step in (2, 3, 4, 5)],
        *[(InterruptTest(step),) for step in (3, 4)],
        (Checkpoints(steps=1), Die(4)),
        (Checkpoints(steps=1), Die(6)),
    ],
)
@pytest.mark.parametrize("sized", [True, False])
def test_a_training_is_resumed_between_evaluations(tmp_path: Path, plugins: tuple[Plugin, ...], sized: bool) -> None:
    """Weights, learning rates and history are those of a training that was never interrupted."""

    def part(name: str, *more: Plugin) -> tuple[Tensor, Any, Any]:
        # The shuffled dev split draws random numbers when it is evaluated.
        dev, trainer = DataLoader(points(16, 1), 4, shuffle=True), make_trainer()
        result = train(
            tmp_path / name, Noise(), EMA(0.5), AnnealingOnPlateau(0.5, 0), *more, trainer=trainer, dev=dev,
            train=points(48) if sized else DataLoader(Unsized(), 16), test=points(16, 2), monitor_test=True,
            max_epochs=3, evaluate_each_k_steps=2, resume=True, use_final_model_for_eval=True,
        )  # fmt: skip
        return trainer.model.get_parameter("weight").detach(), [*map(dict, result.history)], marks(result)

    whole = part("whole")
    if isinstance(plugins[-1], Die):
        with pytest.raises(RuntimeError, match="killed"):
            part("parts", *plugins)
    else:
        part("parts", *plugins)
    weights, history, marked = part("parts")
    assert torch.equal(weights, whole[0])
    assert (history, marked) == whole[1:]


def test_something_must_be_evaluated(tmp_path: Path) -> None:
    """Without a split to evaluate, the option is refused."""
    with pytest.raises(
        OptionError, match="evaluate_each_k_steps is given, but there is no split to evaluate: pass dev="
    ):
        train(tmp_path, train=points(48), evaluate_each_k_steps=2)


def test_models_are_saved_at_steps(tmp_path: Path) -> None:
    """Each has the weights that an evaluation at this step would use, and the training continues with its own."""
    weights, averaged, plain = Weights(), make_trainer(linear()), Weights()
    train(tmp_path / "plain", plain, save_model_each_k_steps=2)
    found = {
        path.name: torch.load(path, weights_only=True)["weight"] for path in (tmp_path / "plain").glob("model-step-*")
    }
    assert found.keys() == {"model-step-2.pt", "model-step-4.pt", "model-step-6.pt"}
    assert torch.equal(found["model-step-4.pt"], plain.of_step[4])
    saved = [event.value for event in read_events(tmp_path / "plain") if event.name == "checkpoint/saved"]
    assert {"path": "model-step-2.pt", "kind": "step", "epoch": 1} in saved
    train(tmp_path / "ema", EMA(0.5), weights, trainer=averaged, save_model_each_k_steps=2)
    average = torch.load(tmp_path / "ema" / "model-step-2.pt", weights_only=True)["weight"]
    torch.testing.assert_close(average, (weights.of_step[1] + weights.of_step[2]) / 2)
    assert torch.equal(weights.of_step[6], plain.of_step[6])
