"""Trainings in several parts, each resumed from the previous one."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import torch

from support.tiny_training import linear, make_trainer, train
from trainwire import Plugin, hook
from trainwire.training.hooks.payloads import AfterTrainingBatch, BeforeEvaluation


class Interrupt(Plugin):
    """Raises SIGTERM at a step."""

    def __init__(self, step: int) -> None:
        self.step = step

    @hook
    def after_training_batch(self, batch: AfterTrainingBatch) -> None:
        if batch.step == self.step:
            signal.raise_signal(signal.SIGTERM)


def weights(folder: Path, *parts: tuple[Plugin, ...], **options: Any) -> torch.Tensor:
    """Return the weights after a training in several parts, each resumed from the previous one."""
    for plugins in parts:
        model = linear()
        train(folder, *plugins, trainer=make_trainer(model), **{"max_epochs": 3, "seed": 1, "resume": True} | options)
    return model.weight.detach()


class Die(Plugin):
    """Fails before an evaluation after a given step, as if the process had been killed there."""

    def __init__(self, step: int) -> None:
        self.step = step

    @hook
    def before_evaluation(self, evaluation: BeforeEvaluation) -> None:
        if self.run.state.step == self.step:
            raise RuntimeError("killed")
