"""Histograms of weights and gradients."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.gpu_waits import fail_on_gpu_wait
from support.run_reader import read_events
from support.tiny_training import make_trainer, train
from torch import Tensor, nn

from trainwire.plugins.histograms import Histograms
from trainwire.training.hooks.payloads import AfterTrainingBatch, BeforeTrainingOptimizerStep
from trainwire_protocol.errors import OptionError
from trainwire_protocol.events import Event


def histograms(folder: Path) -> list[Event]:
    return [event for event in read_events(folder) if event.type == "histogram"]


def test_weights_and_gradients_are_recorded(tmp_path: Path) -> None:
    """At every third step, a histogram of each parameter and gradient contains the values of that step."""
    trainer, seen = make_trainer(), dict[tuple[int, str], Tensor]()

    @trainer.on("before_training_optimizer_step")
    def keep_gradient(step: BeforeTrainingOptimizerStep) -> None:
        gradient = trainer.model.get_parameter("weight").grad
        assert gradient is not None
        seen[step.step, "gradients/weight"] = gradient.clone()

    @trainer.on("after_training_batch")
    def keep_weights(batch: AfterTrainingBatch) -> None:
        seen[batch.step, "parameters/weight"] = trainer.model.get_parameter("weight").detach().clone()

    train(tmp_path, fail_on_gpu_wait(Histograms(every=3, parameters=["wei*"])), trainer=trainer)
    found = histograms(tmp_path)
    assert [(event.step, event.name) for event in found] == [
        (3, "gradients/weight"), (3, "parameters/weight"), (6, "gradients/weight"), (6, "parameters/weight"),
    ]  # fmt: skip
    for event in found:
        values = seen[event.step, event.name].double()
        assert sum(event.value["counts"]) == 8
        assert (event.value["min"], event.value["max"]) == (values.min(), values.max())
        assert event.value["sum"] == pytest.approx(float(values.sum()))


def test_gradients_are_optional(tmp_path: Path) -> None:
    """Without gradients, only the weights are recorded."""
    train(tmp_path, Histograms(every=6, gradients=False))
    assert [event.name for event in histograms(tmp_path)] == ["parameters/weight", "parameters/bias"]


def test_a_frozen_parameter_has_no_gradient(tmp_path: Path) -> None:
    """Only the weights of a frozen parameter are recorded."""
    model = nn.Sequential(nn.Linear(4, 2), nn.Linear(2, 2).requires_grad_(False))
    train(tmp_path, Histograms(every=6, parameters="*.bias"), trainer=make_trainer(model))
    assert [event.name for event in histograms(tmp_path)] == [
        "gradients/0.bias",
        "parameters/0.bias",
        "parameters/1.bias",
    ]


def test_an_interval_below_one_is_refused() -> None:
    """An interval of 0 steps raises OptionError."""
    with pytest.raises(OptionError, match="every is 0"):
        Histograms(every=0)
