"""Hooks that are called only for some payloads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from support.tiny_training import make_trainer, train

from trainwire import Plugin, hook
from trainwire.training.hooks.payloads import (
    AfterEvaluation,
    AfterTrainingBatch,
    AfterTrainingEpoch,
    BeforeTrainingBatch,
)
from trainwire.training.plugin import checked_plugins
from trainwire_protocol.errors import OptionError


class Choosy(Plugin):
    """Collects the selected calls."""

    def __init__(self) -> None:
        self.called: list[tuple[str, int]] = []

    @hook(every=3)
    def after_training_batch(self, batch: AfterTrainingBatch) -> None:
        self.called.append(("step", batch.step))

    @hook(once=2)
    def before_training_batch(self, batch: BeforeTrainingBatch) -> None:
        self.called.append(("number", batch.epoch))

    @hook(every=2)
    def after_training_epoch(self, epoch: AfterTrainingEpoch) -> None:
        self.called.append(("epoch", epoch.epoch))

    @hook("after_evaluation", split="test")
    def tested(self, evaluation: AfterEvaluation) -> None:
        self.called.append(("test", evaluation.epoch))


def test_a_filter_selects_by_the_counter_of_the_payload(tmp_path: Path) -> None:
    """Steps are counted over the training, batches within their epoch; an evaluation has a split."""
    plugin = Choosy()
    train(tmp_path, plugin, max_epochs=2)
    assert plugin.called == [
        ("number", 1), ("step", 3), ("number", 2), ("step", 6), ("epoch", 2), ("test", 2),
    ]  # fmt: skip


def test_functions_are_filtered_too(tmp_path: Path) -> None:
    """`trainer.on` takes the same filters as `@hook`."""
    trainer, steps = make_trainer(), []

    @trainer.on("after_training_batch", once=5)
    def note(batch: AfterTrainingBatch) -> None:
        steps.append(batch.step)

    train(tmp_path, trainer=trainer)
    assert steps == [5]


@pytest.mark.parametrize(
    ("name", "filters", "message"),
    [
        ("after_training_batch", {"every": 0}, "every is 0"),
        ("after_training_epoch", {"once": "2"}, "once is '2'"),
        ("after_training_epoch", {"split": "dev"}, "split='dev' is only valid for evaluation hooks"),
        ("after_setup", {"every": 2}, "'after_setup' is called once"),
    ],
)
def test_an_invalid_filter_is_refused(name: str, filters: dict[str, Any], message: str) -> None:
    """The error is raised when the plugin is attached."""
    method = hook(name, **filters)(lambda self, payload: None)
    with pytest.raises(OptionError, match=message):
        checked_plugins([type("Filtered", (Plugin,), {"listen": method})()])
