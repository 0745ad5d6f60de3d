"""The metric history."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from support.gpu_waits import fail_on_gpu_wait
from support.tiny_training import Recorder, train

from trainwire import Plugin, hook
from trainwire.plugins.metric_history import MetricHistory
from trainwire.training.hooks.payloads import AfterTrainingBatch, MetricRecorded


def test_an_epochs_metrics_are_kept_with_their_steps(tmp_path: Path) -> None:
    """What the result tells of each epoch is there by name, after the training too; batches are left out."""
    history = MetricHistory()
    result = train(tmp_path, history)
    assert list(history.values) == [
        "train/loss", "learning_rate", "dev/loss", "dev/accuracy", "test/loss", "test/accuracy",
    ]  # fmt: skip
    for name in ("train/loss", "dev/accuracy"):
        assert history[name] == [(3, result.history[0][name]), (6, result.history[1][name])]


def test_chosen_metrics_are_kept_as_they_were(tmp_path: Path) -> None:
    """A pattern chooses; a tensor that changes later, or a list, is kept with the value that it had."""

    class Counts(Plugin):
        @hook
        def after_training_batch(self, batch: AfterTrainingBatch) -> None:
            counter.add_(1)
            self.run.record({"mine/tensor": counter, "mine/list": [1.0, 2.0]})

    counter, history, recorder = torch.zeros(()), MetricHistory("*/[btl]*"), Recorder()
    train(tmp_path, Counts(), fail_on_gpu_wait(history), recorder, max_epochs=1)
    assert history["mine/tensor"] == [(1, 1.0), (2, 2.0), (3, 3.0)]
    assert history["mine/list"] == [(step, [1.0, 2.0]) for step in (1, 2, 3)]
    losses = [float(told.value) for told in recorder.of(MetricRecorded) if told.name == "train/batch_loss"]  # type: ignore[arg-type]  # a tensor
    assert history["train/batch_loss"] == [(step, pytest.approx(loss)) for step, loss in enumerate(losses, start=1)]


def test_a_second_training_begins_anew(tmp_path: Path) -> None:
    """The history is that of the last training."""
    history = MetricHistory()
    for folder in ("a", "b"):
        train(tmp_path / folder, history)
    assert [step for step, _ in history["train/loss"]] == [3, 6]


def test_its_state_holds_all_values(tmp_path: Path) -> None:
    """A history that was saved and loaded is the same, and later values do not change what was saved."""
    history, other = MetricHistory(), MetricHistory()
    train(tmp_path, history)
    state = history.state_dict()
    other.load_state_dict(state)
    assert other.values == history.values
    other["dev/loss"].append((9, 0.0))
    assert len(state["values"]["dev/loss"]) == 2
