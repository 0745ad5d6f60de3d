"""The plugin that saves checkpoints."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from support.run_reader import read_events, wait_until
from support.tiny_training import train

from trainwire import EventBus, Plugin, hook
from trainwire.checkpointing.checkpoint import list_checkpoints
from trainwire.plugins import checkpoints as module
from trainwire.plugins.checkpoints import Checkpoints
from trainwire.training.hooks.payloads import AfterTrainingBatch, AfterTrainingEpoch, TrainingFinally
from trainwire_protocol.errors import OptionError


class Slow(Plugin):
    """Waits before each batch and each epoch until the writing thread is idle."""

    after = ("Checkpoints",)

    @hook("before_training_epoch", "before_training_batch")
    def wait(self, payload: object) -> None:
        wait_until(lambda: all(thread.is_idle for thread in writers()))


def writers() -> list[module.CheckpointWriter]:
    return [thread for thread in threading.enumerate() if isinstance(thread, module.CheckpointWriter)]


def steps(folder: Path) -> list[int]:
    return sorted(checkpoint.label.step for checkpoint in list_checkpoints(folder))


def test_the_latest_and_the_best_are_kept(tmp_path: Path) -> None:
    """Saved and deleted checkpoints are published, and those that are left are on the disk."""

    class Scores(Plugin):
        before = ("BestModel",)

        @hook
        def after_training_epoch(self, epoch: AfterTrainingEpoch) -> None:
            self.run.record_epoch({"dev/accuracy": 1.0 if epoch.epoch == 2 else 0.5})

    train(tmp_path, Scores(), Checkpoints(epochs=1, keep_last=2, keep_best=1), Slow(), max_epochs=6)
    events = read_events(tmp_path)
    saved = [event.value for event in events if event.name == "checkpoint/saved" and event.value["kind"] == "resume"]
    deleted = {event.value["path"] for event in events if event.name == "checkpoint/deleted"}
    left = {value["path"] for value in saved} - deleted
    assert left == {f"checkpoints/{checkpoint.folder.name}" for checkpoint in list_checkpoints(tmp_path)}
    assert steps(tmp_path) == [6, 15, 18]


def test_events_about_earlier_checkpoints_have_the_current_step(tmp_path: Path) -> None:
    """A checkpoint that is deleted at the end of the training does not set the step back, nor that of later events."""

    class DeletesAtTheEnd(Checkpoints):
        def _delete_old(self) -> None:
            if self.run.state.step == 6:
                super()._delete_old()

    train(tmp_path, DeletesAtTheEnd(steps=2, keep_last=1), Slow())
    events = read_events(tmp_path)
    assert [event.step for event in events if event.name == "checkpoint/deleted"] == [6, 6, 6]
    assert events[-1].step == 6


def test_checkpoints_are_saved_by_steps_and_by_time(tmp_path: Path) -> None:
    """They are saved after a number of updates, after a time, and at the end."""
    train(tmp_path / "a", Checkpoints(steps=2, keep_last=9), Slow())
    assert steps(tmp_path / "a") == [2, 4, 6, 6]
    train(tmp_path / "b", Checkpoints(minutes=1e-9, keep_last=9), Slow())
    assert steps(tmp_path / "b") == [1, 2, 3, 4, 5, 6, 6]
    train(tmp_path / "c", Checkpoints())
    assert steps(tmp_path / "c") == [6]


def test_a_checkpoint_is_saved_on_request(tmp_path: Path) -> None:
    """`control.checkpoint()` saves one after the current step."""

    class Ask(Plugin):
        @hook(once=2)
        def after_training_batch(self, batch: AfterTrainingBatch) -> None:
            self.run.control.checkpoint()

    train(tmp_path, Ask())
    assert [(each.label.step, each.label.epoch_is_over) for each in list_checkpoints(tmp_path)][1:] == [(2, False)]


def test_a_checkpoint_is_complete_only_once_the_journal_has_its_mark(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Until then it has no label, and the training continues; without the mark, it never becomes a checkpoint."""
    waited = []

    def never(bus: EventBus, state: Any, timeout: float) -> bool:
        waited.append(steps(tmp_path))
        return False

    monkeypatch.setattr(EventBus, "wait_until_journaled", never)
    monkeypatch.setattr(module, "CLOSE_SECONDS", 0.0)
    result = train(tmp_path, Checkpoints(steps=1))
    assert result.steps == 6
    assert waited
    assert all(found == [] for found in [*waited, steps(tmp_path)])


def test_a_checkpoint_that_cannot_be_written_does_not_stop_the_training(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The error is logged."""
    (tmp_path / "checkpoints").touch()
    assert train(tmp_path, Checkpoints(steps=2)).status == "finished"
    assert "could not be written" in caplog.text


def test_a_checkpoint_is_loaded_without_executing_code(tmp_path: Path) -> None:
    """torch loads it with `weights_only`; it contains model, optimizer, plugins and random states."""
    train(tmp_path, Checkpoints(epochs=1), use_amp="fp16")
    state = torch.load(list_checkpoints(tmp_path)[0].folder / "rank-0.pt", weights_only=True)
    assert state.keys() == {
        "options", "matches", "initial_groups", "model", "modes", "loss", "parameters", "optimizers", "precision",
        "training", "plugins", "random", "bus",
    }  # fmt: skip
    assert {"BestModel", "AnnealingOnPlateau"} <= state["plugins"].keys()


def test_the_writing_thread_ends_with_the_training(tmp_path: Path) -> None:
    """It also ends if a plugin fails at the end."""

    class Fail(Plugin):
        @hook
        def training_finally(self, ending: TrainingFinally) -> None:
            raise ValueError("no such luck")

    with pytest.raises(ValueError, match="no such luck"):
        train(tmp_path, Fail())
    assert not writers()


@pytest.mark.parametrize("options", [{"steps": -1}, {"keep_last": 0}, {"minutes": -1.0}])
def test_numbers_out_of_range_are_refused(options: dict[str, Any]) -> None:
    """The error states the limits."""
    with pytest.raises(OptionError, match="at least"):
        Checkpoints(**options)
