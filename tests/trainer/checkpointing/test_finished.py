"""Resuming a training that has ended."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from support.resumed_trainings import Interrupt, weights
from support.run_reader import read_events
from support.tiny_training import Recorder, corpus, linear, make_trainer, train

from trainwire import Plugin, Result, hook
from trainwire.checkpointing.checkpoint import list_checkpoints
from trainwire.plugins.checkpoints import Checkpoints
from trainwire.plugins.early_stopping import EarlyStopping
from trainwire.plugins.ema import EMA
from trainwire.plugins.linear_schedule import LinearSchedule
from trainwire.plugins.swa import SWA
from trainwire.training.hooks.payloads import AfterTrainingBatch, AfterTrainingEpoch, BeforeTrainingBatch


class StopAt(Plugin):
    """Stops the training at a step."""

    def __init__(self, step: int) -> None:
        self.step = step

    @hook
    def after_training_batch(self, batch: AfterTrainingBatch) -> None:
        if batch.step == self.step:
            self.run.control.stop("enough")


class Worsen(Plugin):
    """Records an accuracy that falls from epoch to epoch."""

    before = ("BestModel",)

    @hook
    def after_training_epoch(self, epoch: AfterTrainingEpoch) -> None:
        self.run.record_epoch({"dev/accuracy": 1 / epoch.epoch})


def outcome(result: Result) -> tuple[Any, ...]:
    return (
        result.status, result.reason, result.epochs, result.steps, result.best_epoch, result.best_score,
        result.test_metrics, [dict(epoch) for epoch in result.history],
    )  # fmt: skip


@pytest.mark.parametrize(
    ("plugins", "options"),
    [
        ((), {}), ((), {"max_epochs": 9, "max_steps": 5}), ((StopAt(4),), {}), ((EMA(0.5),), {}),
        ((SWA(start=1),), {"use_final_model_for_eval": True}),
        ((Worsen(), EarlyStopping(patience=0)), {"max_epochs": 9}),
    ],
)  # fmt: skip
def test_a_finished_training_returns_its_result(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, plugins: tuple[Plugin, ...], options: dict[str, Any]
) -> None:
    """However it ended, nothing is trained, the models are the same, and the log says so; again and again."""
    first = train(tmp_path, *plugins, trainer=make_trainer(model := linear()), **options)
    files = {name: torch.load(tmp_path / name, weights_only=True) for name in ("best-model.pt", "final-model.pt")}
    for _ in range(2):
        caplog.clear()
        recorder = Recorder()
        trainer = make_trainer(again := linear())
        result = train(tmp_path, *plugins, recorder, trainer=trainer, resume=True, **options)
        assert outcome(result) == outcome(first)
        assert not recorder.of(BeforeTrainingBatch)
        assert all(torch.equal(a, b) for a, b in zip(again.parameters(), model.parameters(), strict=True))
        for name, weights_before in files.items():
            weights_now = torch.load(tmp_path / name, weights_only=True)
            assert all(torch.equal(weights_now[key], weights_before[key]) for key in weights_before), name
        assert f"has ended at epoch {first.epochs}, step {first.steps}" in caplog.text
    assert len(list_checkpoints(tmp_path)) == 1
    assert not list(tmp_path.glob("*.attempt-*"))


@pytest.mark.parametrize("plugins", [(), (EMA(0.5),)])
def test_more_epochs_continue_a_finished_training(tmp_path: Path, plugins: tuple[Plugin, ...]) -> None:
    """The weights equal those of a training that had as many epochs from the start."""
    whole = weights(tmp_path / "whole", plugins, max_epochs=4)
    weights(tmp_path / "parts", plugins, max_epochs=2)
    assert torch.equal(weights(tmp_path / "parts", plugins, max_epochs=4), whole)


def test_more_steps_continue_a_finished_training(tmp_path: Path) -> None:
    """The next epoch begins; `max_steps` may be removed too."""
    assert train(tmp_path, max_epochs=3, max_steps=3).steps == 3
    result = train(tmp_path, max_epochs=3, max_steps=5, resume=True)
    assert (result.steps, result.epochs, result.reason) == (5, 2, "max_steps reached: 5")
    result = train(tmp_path, max_epochs=3, resume=True)
    assert (result.steps, result.epochs, result.reason) == (8, 3, "max_epochs reached: 3")


def test_more_epochs_continue_a_stopped_training(tmp_path: Path) -> None:
    """The reason for which it was stopped applies only as long as no more is requested."""
    train(tmp_path, StopAt(4), max_epochs=3)
    assert train(tmp_path, max_epochs=3, resume=True).reason == "enough"
    result = train(tmp_path, max_epochs=4, resume=True)
    assert (result.epochs, result.steps, result.reason) == (4, 4 + 2 * 3, "max_epochs reached: 4")


def test_a_linear_schedule_of_a_finished_training_is_extended(tmp_path: Path) -> None:
    """The rate of each further step is that of a schedule over all epochs."""

    def rates(folder: Path, *epochs: int) -> list[float]:
        for number in epochs:
            train(folder, LinearSchedule(0.0), max_epochs=number, resume=True, learning_rate=0.6)
        found = [event for event in read_events(folder, attempt=len(epochs) - 1) if event.name == "learning_rate"]
        return [event.value for event in found if event.step > 3]

    assert rates(tmp_path / "parts", 1, 3) == pytest.approx(rates(tmp_path / "whole", 3))


def test_a_damaged_checkpoint_of_the_end_is_reported(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The training is resumed from the one before it; without another, it starts anew, and its models are kept."""
    first = train(tmp_path, Checkpoints(steps=4))
    end, _ = list_checkpoints(tmp_path)
    (end.folder / "rank-0.pt").unlink()
    again = train(tmp_path, resume=True)
    assert "cannot be read" in caplog.text
    assert outcome(again) == outcome(first)
    for checkpoint in list_checkpoints(tmp_path):
        (checkpoint.folder / "rank-0.pt").write_bytes(b"damaged")
    assert outcome(train(tmp_path, resume=True)) == outcome(first)
    assert "there is no other checkpoint in" in caplog.text
    assert (tmp_path / "best-model.attempt-1.pt").exists()
    shutil.rmtree(tmp_path / "checkpoints")
    train(tmp_path, resume=True)
    assert "there is no checkpoint in" in caplog.text
    assert (tmp_path / "final-model.attempt-2.pt").exists()


def test_a_missing_best_model_of_a_checkpoint_is_reported(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The best model is chosen among the epochs that follow."""
    train(tmp_path, Worsen())
    (list_checkpoints(tmp_path)[0].folder / "best-model.pt").unlink()
    result = train(tmp_path, Worsen(), max_epochs=3, resume=True)
    assert "best-model.pt is missing: the best model is chosen among the following epochs" in caplog.text
    assert (result.best_epoch, result.best_score) == (3, 1 / 3)


def test_an_interrupted_training_is_not_finished(tmp_path: Path) -> None:
    """No checkpoint of its end is saved, and it continues within its epoch."""
    train(tmp_path, Interrupt(4))
    (checkpoint,) = list_checkpoints(tmp_path)
    assert (checkpoint.label.step, checkpoint.label.epoch_is_over) == (4, False)
    assert train(tmp_path, resume=True).steps == 6


def test_a_finished_fine_tuning_returns_its_result(tmp_path: Path) -> None:
    """`fine_tune` ends and continues in the same way."""

    def tune(epochs: int) -> Result:
        trainer = make_trainer()
        return trainer.fine_tune(tmp_path, corpus=corpus(), max_epochs=epochs, seed=1, sinks=(), resume=True)

    first, again, more = tune(2), tune(2), tune(3)
    assert outcome(again) == outcome(first)
    assert (more.epochs, more.steps) == (3, 36)
