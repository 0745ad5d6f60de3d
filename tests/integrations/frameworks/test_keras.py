"""The callback for Keras, in real trainings of Keras's with PyTorch."""

from __future__ import annotations

import csv
import pickle
from pathlib import Path
from typing import Any

import keras
import pytest
from support.framework_runs import curves, hparams, lifecycle, loss_rows, run_sinks, scalars
from support.keras_training import INPUTS, LABELS, make_model, train

from trainwire import open_bus
from trainwire.integrations.keras import TrainwireCallback
from trainwire_protocol.errors import OptionError, RunInUseError


class RaiseAt(keras.callbacks.Callback):
    """Raises an error at the beginning of an epoch."""

    def __init__(self, epoch: int, error: BaseException) -> None:
        super().__init__()
        self.epoch, self.error = epoch, error

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        if epoch == self.epoch:
            raise self.error


@pytest.mark.timeout(330)
def test_what_sinks_write_of_a_training(tmp_path: Path) -> None:
    """TensorBoard and loss.tsv have the values of Keras's CSVLogger; its own TensorBoard needs TensorFlow."""
    ours, model = TrainwireCallback(tmp_path / "run", update_freq=2), make_model()
    train(model, ours, keras.callbacks.CSVLogger(tmp_path / "theirs.csv"))
    model.evaluate(INPUTS, LABELS, callbacks=[ours], verbose=0)
    run_sinks(tmp_path / "run")
    with (tmp_path / "theirs.csv").open() as file:
        theirs = list(csv.DictReader(file))
    shown, rows = curves(tmp_path / "run/tensorboard/rank-0"), loss_rows(tmp_path / "run")
    assert [row["EPOCH"] for row in rows[:3]] == ["1", "2", "3"]
    for name in ("loss", "accuracy", "val_loss", "val_accuracy"):
        own = name.replace("val_", "val/") if name.startswith("val_") else f"train/{name}"
        values = [float(row[name]) for row in theirs]
        assert shown[own] == [(step, pytest.approx(value)) for step, value in zip((5, 10, 15), values, strict=True)]
        assert [float(row[own.replace("/", "_").upper()]) for row in rows[:3]] == pytest.approx(values)
    assert [step for step, _ in shown["train/batch_loss"]] == [2, 4, 6, 8, 10, 12, 14]
    assert shown["learning_rate"] == [(step, pytest.approx(0.1)) for step in (5, 10, 15)]
    assert shown["test/loss"] == [(15, pytest.approx(float(theirs[-1]["val_loss"])))]


def test_the_life_of_a_run(tmp_path: Path) -> None:
    """The run has the settings, the epochs, and the reason if a callback ends the training."""
    stop = keras.callbacks.EarlyStopping(monitor="loss", mode="max", patience=1)
    history = train(make_model(), TrainwireCallback(tmp_path), stop)
    assert len(history["loss"]) == 2
    events = lifecycle(tmp_path)
    epochs = ["epoch/started", "epoch/finished"] * 2
    assert [event.name for event in events] == ["run/started", *epochs, "run/finished"]
    assert events[1].value == {"epoch": 1, "max_epochs": 3}
    assert events[-1].value["reason"] == "stopped by a callback"
    parameters: Any = hparams(tmp_path)
    assert parameters["model"] == "classifier"
    assert parameters["optimizer"]["learning_rate"] == pytest.approx(0.1)
    assert parameters["epochs"] == 3
    assert [value for _, value in scalars(tmp_path, "train/loss")] == history["loss"]


def test_several_trainings_of_a_callback(tmp_path: Path) -> None:
    """They add to one run, whose steps go on; a training with another callback begins the run anew, or adds too."""
    model, callback = make_model(), TrainwireCallback(tmp_path)
    train(model, callback, epochs=1)
    train(model, callback, epochs=2, initial_epoch=1)
    assert [step for step, _ in scalars(tmp_path, "train/loss")] == [5, 10]
    train(model, TrainwireCallback(tmp_path, append=True), epochs=1)
    train(model, TrainwireCallback(tmp_path), epochs=1)
    resumed = [event.value["from"] is None for event in lifecycle(tmp_path) if event.name == "run/resumed"]
    assert resumed == [False, False, True]


def test_the_run_of_a_training_that_has_failed(tmp_path: Path) -> None:
    """Keras says nothing: the next training of the callback ends the run as failed."""
    callback = TrainwireCallback(tmp_path)
    with pytest.raises(ValueError, match="bad batch"):
        train(make_model(), callback, RaiseAt(1, ValueError("bad batch")))
    train(make_model(), callback, epochs=1)
    ends = [event.name for event in lifecycle(tmp_path) if event.name in ("run/failed", "run/finished")]
    assert ends == ["run/failed", "run/finished"]


def test_bad_input(tmp_path: Path) -> None:
    """An invalid number of batches, an invalid folder, and a folder in use are refused."""
    for number in (0, -1, 1.5, "batch", True):
        with pytest.raises(OptionError, match="update_freq is"):
            TrainwireCallback(tmp_path, update_freq=number)  # type: ignore[arg-type]
    with pytest.raises(OptionError, match="run_folder is None"):
        TrainwireCallback(None)  # type: ignore[arg-type]
    with open_bus(tmp_path, quiet=True), pytest.raises(RunInUseError):
        train(make_model(), TrainwireCallback(tmp_path))
    assert pickle.loads(pickle.dumps(TrainwireCallback(tmp_path))).run_folder == tmp_path
    make_model().evaluate(INPUTS, LABELS, callbacks=[TrainwireCallback(tmp_path)], verbose=0)
