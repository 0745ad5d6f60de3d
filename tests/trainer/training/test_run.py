"""A run, and the setup from which it is built."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import pytest
from support.run_reader import read_events
from support.tiny_training import corpus, linear, make_trainer, train
from torch import nn

from trainwire import Plugin, TrainingOptions, hook
from trainwire.plugins.checkpoints import Checkpoints
from trainwire.training.distributed.processes import SINGLE
from trainwire.training.hooks.payloads import AfterSetup, AfterTrainingBatch
from trainwire.training.setup import prepare


class Saver(Plugin):
    """A checkpointer that only counts."""

    def __init__(self) -> None:
        self.saved: list[int] = []

    def save_checkpoint(self) -> None:
        self.saved.append(self.run.state.step)


class Request(Plugin):
    """Requests a checkpoint at the second step."""

    @hook(once=2)
    def after_training_batch(self, batch: AfterTrainingBatch) -> None:
        self.run.control.checkpoint()


def test_a_setup_cannot_be_changed(tmp_path: Path) -> None:
    """It is immutable, and nothing was opened for it."""
    setup = prepare(make_trainer(), tmp_path / "run", corpus(), TrainingOptions(), (), SINGLE, None)
    with pytest.raises(dataclasses.FrozenInstanceError):
        setup.seed = 3  # type: ignore[misc]  # that is the test
    assert not (tmp_path / "run").exists()


def test_a_run_is_complete_in_the_first_hook(tmp_path: Path) -> None:
    """In `after_setup`, a run has its bus, its hooks, its processes and its forward pass."""

    class Look(Plugin):
        @hook
        def after_setup(self, setup: AfterSetup) -> None:
            run = self.run
            self.seen = (run.bus.attempt, run.attempt, run.processes.several, run.checkpointer)
            self.loss = run.forward(next(iter(run.train_loader))).loss.item()
            self.is_listening = bool(run.hooks.listeners[AfterSetup])

    look, saver = Look(), Saver()
    train(tmp_path, look, saver, default_plugins=False)
    assert look.seen == (0, 0, False, saver)
    assert math.isfinite(look.loss)
    assert look.is_listening


@pytest.mark.parametrize("others", [[], [Checkpoints()]])
def test_any_plugin_can_save_checkpoints(tmp_path: Path, others: list[Plugin]) -> None:
    """The last attached plugin with a method `save_checkpoint` is called when one is requested, and at the end."""
    saver = Saver()
    train(tmp_path, Request(), *others, saver, default_plugins=False)
    assert saver.saved == [2, 6]
    assert not (tmp_path / "checkpoints").exists()


@pytest.mark.parametrize("checks", [False, True])
def test_a_plugin_can_check_each_loss(tmp_path: Path, checks: bool) -> None:
    """A loss that is not finite is reported for the epoch, unless a plugin with `checks_each_loss` is attached."""
    guard: Plugin = type("Guard", (Plugin,), {"checks_each_loss": checks})()
    model = linear()
    nn.init.constant_(model.weight, math.nan)
    train(tmp_path, guard, trainer=make_trainer(model), max_epochs=1)
    assert [event.name for event in read_events(tmp_path)].count("anomaly/detected") == (0 if checks else 1)


def test_learning_rates_are_published_only_if_they_change(tmp_path: Path) -> None:
    """`set_learning_rates` publishes `learning_rate/changed` with the old and the new rate, and the reason."""

    class Change(Plugin):
        @hook
        def after_training_batch(self, batch: AfterTrainingBatch) -> None:
            self.run.set_learning_rates([0.1 if batch.step == 1 else 0.2], "test")

    train(tmp_path, Change(), max_epochs=1, attach_default_scheduler=False)
    changes: list[Any] = [event.value for event in read_events(tmp_path) if event.name == "learning_rate/changed"]
    assert changes == [{"from": 0.1, "to": 0.2, "reason": "test"}]
