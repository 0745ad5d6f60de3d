"""Early stopping."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
from support.tiny_training import make_trainer, points, train

from trainwire import Plugin, hook
from trainwire.plugins.early_stopping import EarlyStopping
from trainwire.training.hooks.payloads import AfterTrainingEpoch
from trainwire_protocol.errors import OptionError


class Accuracy(Plugin):
    """Sets each epoch's accuracy."""

    def __init__(self, *scores: float) -> None:
        self.scores = scores

    @hook
    def after_training_epoch(self, epoch: AfterTrainingEpoch) -> None:
        self.run.record_epoch({"dev/accuracy": self.scores[epoch.epoch - 1], "dev/loss": 1.0})


def test_training_stops_after_more_than_patience_epochs(tmp_path: Path) -> None:
    """With a patience of two, the third consecutive epoch without improvement stops the training."""
    scores = Accuracy(0.5, 0.4, 0.6, 0.6, 0.5, 0.1, 0.9)
    result = train(tmp_path, scores, EarlyStopping(patience=2), max_epochs=7)
    assert (result.status, result.epochs) == ("finished", 6)
    assert result.reason == "dev/accuracy has not improved for 3 epochs"


def test_a_small_improvement_does_not_count(tmp_path: Path) -> None:
    """With a `min_delta`, scores that improve slowly stop the training, in either direction."""
    scores = Accuracy(0.5, 0.55, 0.58, 0.9)
    assert train(tmp_path / "a", scores, EarlyStopping(1, min_delta=0.1), max_epochs=4).epochs == 3
    scores = Accuracy(0.5, 0.3, 0.25, 0.22, 0.1)
    lower: dict[str, Any] = {"main_evaluation_mode": "min", "max_epochs": 5}
    assert train(tmp_path / "b", scores, EarlyStopping(1, min_delta=0.1), **lower).epochs == 4
    with pytest.raises(OptionError, match="min_delta is nan"):
        EarlyStopping(min_delta=math.nan)


def test_the_same_plugin_can_stop_a_second_training(tmp_path: Path) -> None:
    """The count is reset for each training, and a stopped training is still tested."""
    plugin = EarlyStopping(patience=0)
    for folder in ("a", "b"):
        result = train(tmp_path / folder, Accuracy(0.5, 0.4, 0.9), plugin, max_epochs=3)
        assert result.epochs == 2
        assert result.test_score is not None


def test_invalid_arguments_are_refused(tmp_path: Path) -> None:
    """A negative patience, or a training without a main metric, raises OptionError."""
    with pytest.raises(OptionError, match="patience is -1"):
        EarlyStopping(patience=-1)
    with pytest.raises(OptionError, match="EarlyStopping: there is no main metric"):
        train(tmp_path, EarlyStopping(), trainer=make_trainer(), train=points(8))


def test_a_restored_count_continues(tmp_path: Path) -> None:
    """Saving and restoring the state after each epoch does not change the result."""

    class Restart(Plugin):
        @hook
        def after_training_epoch(self, epoch: AfterTrainingEpoch) -> None:
            state = stopping.state_dict()
            stopping.load_state_dict({**state, "best": None, "bad_epochs": 0})
            stopping.load_state_dict(state)

    stopping = EarlyStopping(patience=1)
    result = train(tmp_path, Accuracy(0.4, 0.6, 0.5, 0.6, 0.7), stopping, Restart(), max_epochs=5)
    assert result.epochs == 4
