"""Trial runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from support.run_reader import read_events
from support.tiny_training import Recorder, linear, make_trainer, points, train
from torch import nn
from torch.utils.data import DataLoader

from trainwire import Plugin, hook
from trainwire.checkpointing.checkpoint import list_checkpoints
from trainwire.plugins.swa import SWA
from trainwire.training.hooks.payloads import AfterStepEvaluation, AfterTrainingBatch, BeforeTrainingBatch, Result
from trainwire_protocol.errors import OptionError


class Counted(DataLoader[Any]):
    """Counts the batches that are read."""

    count = 0

    def __iter__(self) -> Any:
        for batch in super().__iter__():
            self.count += 1
            yield batch


def trial(folder: Path, *plugins: Plugin, **options: Any) -> Result:
    return train(folder, *plugins, max_epochs=50, mini_batch_size=4, trial_run=2, **options)


def test_everything_is_tried_with_a_few_batches(tmp_path: Path) -> None:
    """Two epochs of two batches are trained, evaluated, saved and tested, with what is done every so many steps."""
    recorder, loaders = Recorder(), {split: Counted(points(40), 4) for split in ("train", "dev", "test")}
    result = trial(
        tmp_path, recorder, SWA(40), **loaders, evaluate_each_k_steps=1000, save_model_each_k_steps=1000,
        save_model_each_k_epochs=10,
    )  # fmt: skip
    assert (result.epochs, result.steps, result.reason) == (2, 4, "trial run: max_epochs reached: 2")
    assert len(recorder.of(BeforeTrainingBatch)) == 4
    assert [evaluation.step for evaluation in recorder.of(AfterStepEvaluation)] == [1, 3]
    assert loaders["dev"].count <= 4 * 3  # a loader may be asked for one batch more than is used
    assert loaders["test"].count <= 3
    names = {path.name for path in tmp_path.iterdir()}
    assert names >= {
        "TRIAL-RUN.txt", "best-model.pt", "final-model.pt", "model-epoch-1.pt", "model-epoch-2.pt", "model-step-2.pt",
        "model-step-4.pt", "checkpoints",
    }  # fmt: skip
    hparams: Any = next(event.value for event in read_events(tmp_path) if event.name == "hparams")
    assert hparams["trial_run"] == 2
    logged = [event.value["message"] for event in read_events(tmp_path) if event.type == "log"]
    assert "trial run: it reads 2 batches of each split in 2 epochs, and its results mean nothing" in logged


@pytest.mark.parametrize(
    ("options", "steps"),
    [
        ({"trial_run": True, "accumulate_batches": 3}, [1, 2]), ({"trial_run": 3, "accumulate_batches": 2}, [2, 4]),
        ({"trial_run": 3, "batches_per_epoch": 2}, [2, 4]), ({"trial_run": 1, "accumulate_batches": 8}, [1, 2]),
    ],
)  # fmt: skip
def test_each_epoch_saves_a_model_of_a_step(tmp_path: Path, options: dict[str, Any], steps: list[int]) -> None:
    """It is that of its last update, also if an update has several batches or an epoch fewer than the trial run."""
    train(tmp_path, mini_batch_size=4, save_model_each_k_steps=100, **options)
    assert {path.name for path in tmp_path.glob("model-step-*")} == {f"model-step-{step}.pt" for step in steps}


def test_weight_averaging_reads_a_few_batches(tmp_path: Path) -> None:
    """The pass that recomputes the statistics of batch norms has as many batches as an epoch of the trial run."""
    loader = Counted(points(400), 4)
    model = nn.Sequential(linear(), nn.BatchNorm1d(2))
    result = trial(tmp_path, SWA(1), train=loader, trainer=make_trainer(model))
    assert result.steps == 4
    assert loader.count <= 4 + 3  # a loader may be asked for one batch more than is used
    assert int(model[1].num_batches_tracked) == 2


def test_a_mistake_at_the_end_shows(tmp_path: Path) -> None:
    """An error in the final test ends the trial run as it would end the training."""

    class Fails(Plugin):
        @hook(split="test")
        def after_evaluation(self, evaluation: Any) -> None:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        trial(tmp_path, Fails())


def test_a_training_is_not_resumed_from_a_trial_run(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """It starts from the beginning and removes the mark, so that it can be resumed itself."""
    trial(tmp_path)
    assert list_checkpoints(tmp_path)
    result = trial(tmp_path, resume=True)
    assert result.steps == 4

    class Stops(Plugin):
        @hook(once=2)
        def after_training_batch(self, batch: AfterTrainingBatch) -> None:
            self.run.control.interrupt("test")

    caplog.clear()
    assert train(tmp_path, Stops(), resume=True).steps == 2
    assert f"{tmp_path} contained a trial run: the training starts from the beginning" in caplog.messages
    assert {checkpoint.label.attempt for checkpoint in list_checkpoints(tmp_path)} == {2}
    assert not (tmp_path / "TRIAL-RUN.txt").exists()
    assert train(tmp_path, resume=True).steps == 6
    assert "resumed from step-00000002-attempt-2: epoch 1, step 2" in caplog.messages


def test_a_trial_run_does_not_replace_a_training(tmp_path: Path) -> None:
    """In the folder of a training, it is refused before anything is read."""
    train(tmp_path, max_epochs=1)
    with pytest.raises(OptionError, match="contains a training that is not a trial run: choose another folder"):
        trial(tmp_path)


@pytest.mark.parametrize(("value", "steps"), [(True, 6), (1, 2), (False, 3), (0, 3)])
def test_the_number_of_batches_may_be_given(tmp_path: Path, value: Any, steps: int) -> None:
    """True stands for three batches; limits of the training that are lower hold."""
    assert train(tmp_path, max_epochs=2 if value else 1, trial_run=value).steps == steps
    if value:
        assert train(tmp_path, max_epochs=1, trial_run=value, accumulate_batches=2).epochs == 1


@pytest.mark.parametrize("value", [-1, 1.5, "yes", None])
def test_other_values_are_refused(tmp_path: Path, value: Any) -> None:
    """Before the first batch."""
    with pytest.raises(OptionError, match=r"trial_run is .*; it must be a number of batches, True or False"):
        train(tmp_path, trial_run=value)
