"""The exponential moving average."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from support.gpu_waits import fail_on_gpu_wait
from support.tiny_training import linear, make_trainer, train
from torch import Tensor, nn

from trainwire import Plugin, hook
from trainwire.plugins.annealing import AnnealingOnPlateau
from trainwire.plugins.ema import EMA
from trainwire.training.hooks.payloads import (
    AfterTrainingBatch,
    AfterTrainingEpoch,
    BeforeEvaluation,
    BeforeTrainingBatch,
    Payload,
)
from trainwire.training.model.models import load_model
from trainwire_protocol.errors import OptionError


def weights_of(model: nn.Module) -> Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])


def saved(path: Path) -> Tensor:
    load_model(model := linear(), path)
    return weights_of(model)


class Weights(Plugin):
    """Records the model's weights before and after each step, and at each evaluation."""

    after = ("EMA",)

    def __init__(self) -> None:
        self.before_step: list[Tensor] = []
        self.after_step: list[Tensor] = []
        self.evaluated: list[Tensor] = []

    @hook
    def before_training_batch(self, batch: BeforeTrainingBatch) -> None:
        self.before_step.append(weights_of(self.run.model))

    @hook
    def after_training_batch(self, batch: AfterTrainingBatch) -> None:
        self.after_step.append(weights_of(self.run.model))

    @hook
    def before_evaluation(self, evaluation: BeforeEvaluation) -> None:
        self.evaluated.append(weights_of(self.run.model))

    def averages(self, decay: float) -> list[Tensor]:
        """Return the average after each step, by the formula."""
        average, averages = self.after_step[0], []
        for number, weights in enumerate(self.after_step):
            average = decay * average + (1 - decay) * weights if number else weights
            averages.append(average)
        return averages


class Worse(Plugin):
    """Records a lower accuracy in each epoch."""

    before = ("BestModel",)

    @hook
    def after_training_epoch(self, epoch: AfterTrainingEpoch) -> None:
        self.run.record_epoch({"dev/accuracy": -float(epoch.epoch)})


@pytest.mark.parametrize("decay", [0.0, 0.5, 0.9])
def test_the_average_is_evaluated_and_saved(tmp_path: Path, decay: float) -> None:
    """Evaluations, the best and the final model use the average, and no step synchronizes with the GPU."""
    seen, trainer = Weights(), make_trainer()
    result = train(tmp_path, fail_on_gpu_wait(EMA(decay)), seen, trainer=trainer, use_final_model_for_eval=True)
    averages = seen.averages(decay)
    expected = [averages[2], averages[5], averages[5]]
    torch.testing.assert_close(seen.evaluated, expected)
    assert result.best_epoch is not None
    assert torch.equal(saved(tmp_path / "best-model.pt"), seen.evaluated[result.best_epoch - 1])
    assert torch.equal(saved(tmp_path / "final-model.pt"), seen.evaluated[2])
    assert torch.equal(weights_of(trainer.model), seen.evaluated[2])


def test_training_continues_with_the_weights(tmp_path: Path) -> None:
    """The steps are identical to those of a training without an average."""
    with_average, without = Weights(), Weights()
    train(tmp_path / "a", EMA(0.9), with_average)
    train(tmp_path / "b", without)
    assert all(map(torch.equal, with_average.before_step[1:], with_average.after_step))
    assert all(map(torch.equal, with_average.after_step, without.after_step))


def test_a_warm_up_uses_a_smaller_decay(tmp_path: Path) -> None:
    """With a warm-up, the decay is (1 + n) / (10 + n) if that is smaller."""
    seen = Weights()
    train(tmp_path, EMA(0.99, warm_up=True), seen, max_epochs=1)
    first, second, third = seen.after_step
    average = first + (1 - 2 / 11) * (second - first)
    torch.testing.assert_close(seen.evaluated[0], average + (1 - 3 / 12) * (third - average))


def test_an_error_restores_the_trained_weights(tmp_path: Path) -> None:
    """After a failure while the model contains the average, it has its trained weights again."""

    class Failing(Plugin):
        @hook
        def after_evaluation(self, payload: Any) -> None:
            raise ValueError("failure of the test")

    seen, trainer = Weights(), make_trainer()
    with pytest.raises(ValueError, match="failure of the test"):
        train(tmp_path, EMA(0.9), seen, Failing(), trainer=trainer)
    assert not torch.equal(seen.evaluated[0], seen.after_step[2])
    assert torch.equal(weights_of(trainer.model), seen.after_step[2])


@pytest.mark.parametrize("moment", ["after_training_batch", "after_evaluation"])
def test_a_restored_average_continues(tmp_path: Path, moment: str) -> None:
    """Saving and restoring the state does not change the training, whichever weights the model holds."""

    class Restart(Plugin):
        @hook(moment)
        def restart(self, payload: Payload) -> None:
            state = average.state_dict()
            average.after_setup(None)  # type: ignore[arg-type]  # the hook does not use its payload
            average.load_state_dict(state)

    average, kept, never = EMA(0.5), Weights(), Weights()
    train(tmp_path / "a", average, Restart(), kept)
    train(tmp_path / "b", EMA(0.5), never)
    assert all(map(torch.equal, kept.evaluated, never.evaluated))
    assert all(map(torch.equal, kept.after_step, never.after_step))


def test_a_schedule_can_load_the_averaged_best_model(tmp_path: Path) -> None:
    """The next epoch starts with the weights that a schedule loaded."""
    seen = Weights()
    back_to_best = AnnealingOnPlateau(patience=0, back_to_best=True)
    train(tmp_path, EMA(0.9), back_to_best, seen, Worse(), max_epochs=3)
    assert torch.equal(seen.before_step[6], seen.evaluated[0])
    assert torch.equal(saved(tmp_path / "best-model.pt"), seen.evaluated[0])


def test_a_state_of_a_different_model_is_refused(tmp_path: Path) -> None:
    """Averages with different shapes, or a decay of 1, raise OptionError."""

    class Loads(Plugin):
        @hook
        def after_setup(self, payload: Any) -> None:
            average.load_state_dict({"updates": 1, "is_applied": False, "others": [torch.zeros(3)]})

    average = EMA()
    with pytest.raises(OptionError, match="different shapes"):
        train(tmp_path, average, Loads())
    with pytest.raises(OptionError, match="decay is 1"):
        EMA(1.0)
