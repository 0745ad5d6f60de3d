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


def test_the_metrics_of_an_epoch_are_kept_with_their_steps(tmp_path: Path) -> None:
    """The metrics of each epoch are available by name after the training; those of batches are not kept."""
    history = MetricHistory()
    result = train(tmp_path, history)
    assert list(history.values) == [
        "train/loss", "learning_rate", "dev/loss", "dev/accuracy", "test/loss", "test/accuracy",
    ]  # fmt: skip
    for name in ("train/loss", "dev/accuracy"):
        assert history[name] == [(3, result.history[0][name]), (6, result.history[1][name])]


def test_selected_metrics_keep_their_values(tmp_path: Path) -> None:
    """A pattern selects metrics, and a tensor that changes later keeps the recorded value."""

    class Counts(Plugin):
        @hook
        def after_training_batch(self, batch: AfterTrainingBatch) -> None:
            counter.add_(1)
            self.run.record({"mine/tensor": counter, "mine/list": [1.0, 2.0]})

    counter, history, recorder = torch.zeros(()), MetricHistory("*/[btl]*"), Recorder()
    train(tmp_path, Counts(), fail_on_gpu_wait(history), recorder, max_epochs=1)
    assert history["mine/tensor"] == [(1, 1.0), (2, 2.0), (3, 3.0)]
    assert history["mine/list"] == [(step, [1.0, 2.0]) for step in (1, 2, 3)]
    losses = [float(metric.value) for metric in recorder.of(MetricRecorded) if metric.name == "train/batch_loss"]  # type: ignore[arg-type]  # a tensor
    assert history["train/batch_loss"] == [(step, pytest.approx(loss)) for step, loss in enumerate(losses, start=1)]


def test_a_second_training_starts_a_new_history(tmp_path: Path) -> None:
    """The history contains the last training only."""
    history = MetricHistory()
    for folder in ("a", "b"):
        train(tmp_path / folder, history)
    assert [step for step, _ in history["train/loss"]] == [3, 6]


def test_its_state_contains_all_values(tmp_path: Path) -> None:
    """A restored history is equal, and later values do not change the saved state."""
    history, other = MetricHistory(), MetricHistory()
    train(tmp_path, history)
    state = history.state_dict()
    other.load_state_dict(state)
    assert other.values == history.values
    other["dev/loss"].append((9, 0.0))
    assert len(state["values"]["dev/loss"]) == 2
