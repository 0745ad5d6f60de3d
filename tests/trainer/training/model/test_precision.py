"""Training with automatic mixed precision."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from support.run_reader import read_events
from support.tiny_training import linear, make_trainer, train
from torch import nn

from trainwire import Plugin, hook
from trainwire.training.hooks.payloads import BeforeTrainingOptimizerStep


class Types(nn.Module):
    """Collects the types of its layer's output."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.seen = linear(), set[torch.dtype]()

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        output: torch.Tensor = self.layer(inputs)
        self.seen.add(output.dtype)
        return output


@pytest.mark.parametrize(
    ("use_amp", "kind"),
    [(False, torch.float32), (True, torch.bfloat16), ("bf16", torch.bfloat16), ("fp16", torch.half)],
)
def test_the_model_computes_in_the_requested_precision(tmp_path: Path, use_amp: Any, kind: torch.dtype) -> None:
    """This holds in training and in evaluation; the weights stay in single precision, and the model learns."""
    model = Types()
    result = train(tmp_path, trainer=make_trainer(model), use_amp=use_amp, learning_rate=1.0, max_epochs=4)
    assert model.seen == {kind}
    assert model.layer.weight.dtype == torch.float32
    assert result.test_score is not None
    assert result.test_score > 0.7


def test_a_skipped_update_counts_and_the_scale_is_recorded(tmp_path: Path) -> None:
    """In fp16, an update with gradients that are not finite is skipped, counts as a step, and halves the scale."""

    class Overflow(Plugin):
        @hook(once=2)
        def before_training_optimizer_step(self, step: BeforeTrainingOptimizerStep) -> None:
            self.before = self.run.model.weight.clone()  # type: ignore[operator]  # a tensor

        @hook("before_training_batch", once=2)
        def spoil(self, batch: Any) -> None:
            batch.batch[0].fill_(math.inf)

        @hook("after_training_batch", once=2)
        def compare(self, payload: object) -> None:
            self.is_unchanged = torch.equal(self.before, self.run.model.weight)  # type: ignore[arg-type]  # a tensor

    plugin = Overflow()
    result = train(tmp_path, plugin, use_amp="fp16", max_epochs=1)
    assert (result.steps, plugin.is_unchanged) == (3, True)
    scales = {event.step: event.value for event in read_events(tmp_path) if event.name == "amp/scale"}
    assert scales == {1: 65536.0, 2: 32768.0, 3: 32768.0}


def test_a_step_can_be_skipped(tmp_path: Path) -> None:
    """`skip_step` leaves the weights unchanged, and the step counts."""

    class Never(Plugin):
        @hook
        def before_training_optimizer_step(self, step: BeforeTrainingOptimizerStep) -> None:
            self.run.control.skip_step()

    model = linear()
    assert train(tmp_path, Never(), trainer=make_trainer(model)).steps == 6
    assert torch.equal(model.weight, linear().weight)
