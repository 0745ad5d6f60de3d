"""The plugin that detects anomalies."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from support.gpu_waits import fail_on_gpu_wait
from support.run_reader import read_events
from support.tiny_training import linear, points, train
from torch import Tensor, nn

from trainwire import ModelTrainer, Plugin, hook
from trainwire.plugins.anomaly_guard import AnomalyGuard, Window
from trainwire.training.forward import Forward
from trainwire.training.hooks.payloads import Payload
from trainwire_protocol.errors import OptionError
from trainwire_protocol.statistics import RobustScale


class Factors(ModelTrainer):
    """Multiplies the loss of some steps by a factor; the first step is step 1."""

    factors: dict[int, float]

    def forward(self, batch: Any) -> Forward:
        result = super().forward(batch)
        return result._replace(loss=result.loss * self.factors.get(self.run.state.step + 1, 1.0))


def factors(**steps: float) -> Factors:
    trainer = Factors(linear(), loss=nn.CrossEntropyLoss())
    trainer.factors = {int(name[1:]): factor for name, factor in steps.items()}
    return trainer


def anomalies(folder: Path) -> list[dict[str, Any]]:
    return [event.value for event in read_events(folder) if event.name == "anomaly/detected"]


def weight_of(trainer: ModelTrainer) -> Tensor:
    return trainer.model.get_parameter("weight").detach()


def test_a_loss_that_is_not_finite_stops_the_training(tmp_path: Path) -> None:
    """On a CPU, training stops in that step, an event is published, and the step does not change the weights."""
    trainer = factors(s4=math.nan)
    result = train(tmp_path / "a", fail_on_gpu_wait(AnomalyGuard()), trainer=trainer, train=points(48))
    assert (result.steps, result.reason) == (4, "loss is nan in step 4, not finite")
    found = anomalies(tmp_path / "a")
    assert [(event["what"], event["kind"], event["step"], event["action"]) for event in found] == [
        ("loss", "not finite", 4, "stop"), ("gradient_norm", "not finite", 4, "stop"),
    ]  # fmt: skip
    without = factors()
    train(tmp_path / "b", trainer=without, max_steps=3, train=points(48))
    assert torch.equal(weight_of(trainer), weight_of(without))


@pytest.mark.parametrize("factor", [math.nan, math.inf])
def test_a_step_that_is_not_finite_can_be_skipped(tmp_path: Path, factor: float) -> None:
    """The step does not change the weights, training continues, and consecutive anomalies are published once."""
    skipping, trainer = AnomalyGuard(on_nonfinite="skip"), factors(s2=factor, s3=factor, s5=-factor)
    result = train(tmp_path, fail_on_gpu_wait(skipping), trainer=trainer)
    assert (result.steps, weight_of(trainer).isfinite().all()) == (6, True)
    assert all(math.isfinite(epoch["train/loss"]) for epoch in result.history)
    published = [(event["step"], event["median"]) for event in anomalies(tmp_path) if event["what"] == "gradient_norm"]
    assert published == [(2, None), (5, None)]


def test_continuing_only_publishes_the_anomaly(tmp_path: Path) -> None:
    """With "continue", the gradients are used unchanged."""
    trainer = factors(s2=math.nan)
    result = train(tmp_path, AnomalyGuard(on_nonfinite="continue"), trainer=trainer)
    assert (result.steps, weight_of(trainer).isnan().all()) == (6, True)
    assert len(anomalies(tmp_path)) == 2


@pytest.mark.parametrize("action", ["continue", "skip", "stop"])
def test_a_spike_is_detected_once_the_window_is_full(tmp_path: Path, action: Any) -> None:
    """A large loss is a spike only if the window is full, and is published with the median."""
    options: dict[str, Any] = {"train": points(48), "max_grad_norm": None, "learning_rate": 0.01, "max_epochs": 4}
    trainer, other = factors(s2=50.0, s9=50.0), factors(s2=50.0)
    result = train(
        tmp_path / "a", fail_on_gpu_wait(AnomalyGuard(on_spike=action, window=5)), trainer=trainer, **options
    )
    loss, norm = anomalies(tmp_path / "a")
    assert (loss["kind"], loss["step"], norm["step"]) == ("spike", 9, 9)
    assert loss["value"] == pytest.approx(50 * loss["median"], rel=0.2)
    assert result.steps == (9 if action == "stop" else 12)
    if action == "stop":
        train(tmp_path / "b", trainer=other, max_steps=8, **options)
        assert torch.equal(weight_of(trainer), weight_of(other))


def test_a_quiet_training_has_no_anomaly(tmp_path: Path) -> None:
    """A loss that hardly changes or falls steadily has no spikes."""
    for learning_rate in (1e-9, 1.0):
        train(tmp_path, AnomalyGuard(window=5), learning_rate=learning_rate, max_epochs=5)
    assert anomalies(tmp_path) == []


def test_a_restored_guard_finds_the_same_anomalies(tmp_path: Path) -> None:
    """Saving and restoring the state does not change the anomalies that are found."""

    class Restart(Plugin):
        @hook
        def after_training_batch(self, payload: Payload) -> None:
            state = guard.state_dict()
            guard.load_state_dict({"": {"steps": 0, "values": torch.zeros(5, 2), "bounds": torch.zeros(2, 2)}})
            guard.load_state_dict(state)

    for folder, plugins in (("a", [Restart()]), ("b", [])):
        guard = AnomalyGuard(window=5)
        train(tmp_path / folder, guard, *plugins, trainer=factors(s9=50.0), max_epochs=4)
    assert anomalies(tmp_path / "a") == anomalies(tmp_path / "b") != []


@pytest.mark.parametrize("arguments", [{"on_spike": "panic"}, {"threshold": 0}, {"window": 2}])
def test_invalid_arguments_are_refused(arguments: dict[str, Any]) -> None:
    """An unknown action or a number out of range raises OptionError."""
    with pytest.raises(OptionError, match="AnomalyGuard: "):
        AnomalyGuard(**arguments)


def test_gradients_that_overflow_in_fp16_are_not_an_anomaly(tmp_path: Path) -> None:
    """The gradient scaler skips such a step; a loss that is not finite still stops the training."""
    scaled = train(tmp_path / "a", AnomalyGuard(), trainer=factors(s2=1e30), use_amp="fp16", train=points(48))
    assert (scaled.steps, anomalies(tmp_path / "a")) == (6, [])
    stopped = train(tmp_path / "b", AnomalyGuard(), trainer=factors(s2=math.nan), use_amp="fp16", train=points(48))
    assert stopped.steps == 2


def test_the_bounds_are_those_of_the_modified_z_score() -> None:
    """The bounds that are computed where the loss is are the median and the value with the score `threshold`."""
    window = Window(20, 3.0, torch.device("cpu"))
    losses, norms = torch.randn(20).exp(), torch.full((20,), -2.0)
    for loss, norm in zip(losses, norms, strict=True):
        window.add(torch.stack([loss, norm]))
    for column, values in enumerate((losses, norms)):
        scale = RobustScale.of(values.tolist())
        median, limit = window.bounds[:, column].tolist()
        assert median == scale.median
        assert scale.score(limit) == pytest.approx(3.0, rel=1e-5)
