"""The plugin for flair's trainer, in real trainings of flair's."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from flair.trainers.plugins import MetricRecord, TrainerPlugin
from support.flair_training import make_trainer, train
from support.run_reader import read_events
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from trainwire.integrations.flair import TrainwirePlugin
from trainwire_protocol.errors import OptionError, RunInUseError
from trainwire_protocol.events import Event

SCRIPT = Path(__file__).with_name("train.py")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a training that was started with two sinks beside it."""
    folder = tmp_path_factory.mktemp("flair") / "reviews"
    folder.mkdir()
    trainwire = Path(sys.executable).with_name("trainwire")
    sinks = ["--sink", "loss-file", "--sink", "tensorboard"]
    subprocess.run(
        [trainwire, "launch", *sinks, "--", sys.executable, SCRIPT, folder], check=True, timeout=300, env=os.environ
    )
    return folder


def records(folder: Path) -> list[Any]:
    """Return what flair recorded: name, value, step and walltime."""
    rows: list[Any] = json.loads((folder / "records.json").read_text())[1]
    return rows


def lifecycle(folder: Path) -> list[Event]:
    """Return the lifecycle events of a run."""
    return [event for event in read_events(folder) if event.type == "lifecycle"]


@pytest.mark.timeout(330)
def test_events_are_what_flair_recorded(trained: Path) -> None:
    """Each record is an event of the same name, value, step and time, in the same order."""
    types = ("scalar", "scalars", "text")
    events = [event for event in read_events(trained / "trainwire") if event.type in types]
    expected = records(trained)
    assert len({name for name, *_ in expected}) > 20
    assert [(event.name, event.step) for event in events[:-1]] == [(name, step) for name, _, step, _ in expected]
    for event, (_, value, _, walltime) in zip(events[:-1], expected, strict=True):
        assert event.value == (tuple(value) if event.type == "scalars" else value)
        assert event.walltime == walltime


@pytest.mark.timeout(330)
def test_the_loss_file_equals_that_of_flair(trained: Path) -> None:
    """The sink loss-file writes the epochs of flair's own loss.tsv, and BAD_EPOCHS, which that one lacks."""
    ours, theirs = table(trained / "trainwire/loss.tsv"), table(trained / "loss.tsv")
    scores = {"PRECISION": "MICRO_AVG_PRECISION", "RECALL": "MICRO_AVG_RECALL", "F1": "MICRO_AVG_F1-SCORE"}
    assert len(theirs) == 3
    for row, expected in zip(ours[:3], theirs, strict=True):
        for heading, value in expected.items():
            split, _, score = heading.partition("_")
            if heading != "TIMESTAMP":
                own = f"{split}_{scores[score]}" if score in scores else heading
                assert round(float(row[own]), 4) == float(value)
    assert [row["BAD_EPOCHS"] for row in ours[:3]] == bad_epochs(trained)


def table(path: Path) -> list[dict[str, str]]:
    """Return the rows of a file of tab-separated values."""
    with path.open() as file:
        return list(csv.DictReader(file, delimiter="\t"))


def bad_epochs(folder: Path) -> list[str]:
    """Return the numbers of epochs without improvement that flair recorded."""
    return [str(int(value)) for name, value, *_ in records(folder) if name == "bad_epochs"]


@pytest.mark.timeout(330)
def test_tensorboard_shows_what_that_of_flair_shows(trained: Path) -> None:
    """The sink tensorboard writes the scalars that flair's own TensorboardLogger writes."""
    ours, theirs = curves(trained / "trainwire/tensorboard/rank-0"), curves(trained / "flair-tensorboard")
    assert len(theirs) > 15
    for name, points in theirs.items():
        assert ours[name] == [(step, pytest.approx(value)) for step, value in points]


def curves(folder: Path) -> dict[str, list[tuple[int, Any]]]:
    """Return the steps and values of all scalars in a folder of event files."""
    files = EventAccumulator(str(folder), {"scalars": 0, "tensors": 0})
    files.Reload()
    found = {name: [(point.step, point.value) for point in files.Scalars(name)] for name in files.Tags()["scalars"]}
    for name in files.Tags()["tensors"]:
        tensors = [(point.step, point.tensor_proto.float_val) for point in files.Tensors(name)]
        found |= {name: [(step, values[0]) for step, values in tensors]} if all(v for _, v in tensors) else {}
    return found


@pytest.mark.timeout(330)
def test_the_life_of_a_run(trained: Path) -> None:
    """The run has the parameters, the epochs with the best score, flair's messages, the test score and the end."""
    events = read_events(trained / "trainwire")
    parameters = next(event.value for event in events if event.type == "hparams")
    assert parameters["mini_batch_size"] == 8
    assert parameters["model"] == "TextClassifier"
    assert parameters["optimizer"].endswith("SGD")
    assert parameters["plugins"][0] == "TrainwirePlugin"
    happened = lifecycle(trained / "trainwire")
    epochs = ["epoch/started", "epoch/finished"] * 3
    assert [event.name for event in happened] == ["run/started", *epochs, "run/finished"]
    assert happened[1].value == {"epoch": 1, "max_epochs": 3}
    scores = [value for name, value, *_ in records(trained) if name == "dev/score"]
    best = happened[-2].value["best"]
    assert best == {"metric": "dev/score", "score": max(scores), "epoch": scores.index(max(scores)) + 1}
    assert any("EPOCH 2 done" in event.value["message"] for event in events if event.type == "log")
    test_score = json.loads((trained / "records.json").read_text())[0]
    assert [event.value for event in events if event.name == "test_score"] == [test_score]


class Raise(TrainerPlugin):
    """Raises an error in a hook, in its second call."""

    def __init__(self, name: str, error: BaseException, call: int = 2) -> None:
        super().__init__()
        self.error, self.left = error, call
        self.raises = TrainerPlugin.mark_func_as_hook(lambda **_: self.fail(), name)

    def fail(self) -> None:
        self.left -= 1
        if not self.left:
            raise self.error


def test_ctrl_c(tmp_path: Path) -> None:
    """Ctrl-C interrupts the run; flair tests the model after it, and that is recorded."""
    result = train(tmp_path, TrainwirePlugin(), Raise("before_training_batch", KeyboardInterrupt(), 5))
    events = lifecycle(tmp_path / "trainwire")
    assert [event.name for event in events[-3:]] == ["epoch/finished", "epoch/started", "run/interrupted"]
    assert events[-1].value["reason"] == "KeyboardInterrupt"
    scores = [event.value for event in read_events(tmp_path / "trainwire") if event.name == "test_score"]
    assert scores == [result["test_score"]]


def test_a_training_that_a_plugin_ends_early(tmp_path: Path) -> None:
    """The run is finished for the reason of flair's plugin, and its last epoch is complete."""
    train(tmp_path, TrainwirePlugin(), min_learning_rate=1.0)
    *_, epoch, end = lifecycle(tmp_path / "trainwire")
    assert (epoch.name, epoch.value["epoch"]) == ("epoch/finished", 1)
    assert (end.name, end.value["reason"]) == ("run/finished", "learning rate too small - quitting training!")


@pytest.mark.parametrize(("name", "call"), [("before_training_batch", 2), ("_training_finally", 1)])
def test_a_training_that_fails(tmp_path: Path, name: str, call: int) -> None:
    """The run has failed, whether training fails or what follows it, with the reason."""
    with pytest.raises(ValueError, match="broken"):
        train(tmp_path, TrainwirePlugin(), Raise(name, ValueError("broken"), call))
    end = lifecycle(tmp_path / "trainwire")[-1]
    assert (end.name, end.value["reason"]) == ("run/failed", "ValueError: broken")


def test_a_trainer_trains_again(tmp_path: Path) -> None:
    """A trainer's next training records only its own run, with the same plugin or another one."""
    trainer, plugin = make_trainer(), TrainwirePlugin()
    for folder in ("first", "second"):
        train(tmp_path / folder, plugin, trainer=trainer, max_epochs=1)
    train(tmp_path / "third", TrainwirePlugin(), trainer=trainer, max_epochs=1)
    for folder in ("first", "second", "third"):
        assert lifecycle(tmp_path / folder / "trainwire")[-1].name == "run/finished"
        assert len(lifecycle(tmp_path / folder / "trainwire")) == 4


def test_without_dev_and_test_split(tmp_path: Path) -> None:
    """The best epoch is that of the lowest training loss, as flair chooses it; there is no test score."""
    train(tmp_path, TrainwirePlugin(), train_with_dev=True, train_with_test=True)
    events = read_events(tmp_path / "trainwire")
    losses = [event.value for event in events if event.name == "train/loss"]
    best = lifecycle(tmp_path / "trainwire")[-2].value["best"]
    assert best == {"metric": "train/loss", "score": min(losses), "epoch": losses.index(min(losses)) + 1}
    assert not [event for event in events if event.name == "test_score"]


def test_the_run_folder(tmp_path: Path) -> None:
    """The run may be in `base_path`, unless flair writes files there that have the names of the sinks' files."""
    with pytest.raises(OptionError, match=r"flair writes loss\.tsv and training\.log to .*create_loss_file=False"):
        train(tmp_path, TrainwirePlugin(tmp_path))
    assert not (tmp_path / "journal").exists()
    train(tmp_path, TrainwirePlugin(tmp_path), create_loss_file=False, create_file_logs=False, max_epochs=1)
    assert lifecycle(tmp_path)[-1].name == "run/finished"
    train(tmp_path / "flair", TrainwirePlugin(str(tmp_path / "other")), max_epochs=1)
    assert lifecycle(tmp_path / "other")[-1].name == "run/finished"


def test_a_run_in_use(tmp_path: Path) -> None:
    """Two plugins cannot record the same run; the one that could is closed."""
    with pytest.raises(RunInUseError):
        train(tmp_path, TrainwirePlugin(), TrainwirePlugin())
    assert lifecycle(tmp_path / "trainwire")[-1].name == "run/failed"


class OtherRecords(TrainerPlugin):
    """Records what flair's own plugins do not."""

    @TrainerPlugin.hook
    def after_training_epoch(self, epoch: int, **_: Any) -> None:
        for record in (
            MetricRecord.histogram("weights", torch.arange(8.0), epoch),
            MetricRecord.scalar_list(("two", "rates"), [0.1, 0.2], epoch),
            MetricRecord.string("note", "a note", epoch),
            MetricRecord.scalar("tensor", torch.tensor(2.5), epoch, walltime=1e9),
        ):
            self.trainer.dispatch("metric_recorded", record)


def test_all_kinds_of_records(tmp_path: Path) -> None:
    """Histograms, lists, texts and tensors are recorded as what they are."""
    train(tmp_path, TrainwirePlugin(), OtherRecords(), max_epochs=1)
    events = {event.name: event for event in read_events(tmp_path / "trainwire")}
    assert {name: events[name].type for name in ("weights", "two/rates", "note", "tensor")} == {
        "weights": "histogram", "two/rates": "scalars", "note": "text", "tensor": "scalar",
    }  # fmt: skip
    assert events["tensor"].walltime == 1e9
    assert sum(events["weights"].value["counts"]) == 8
    assert [events[name].value for name in ("two/rates", "note", "tensor")] == [(0.1, 0.2), "a note", 2.5]


def test_the_model_card(tmp_path: Path) -> None:
    """The model card, which flair saves with the model, names the plugin and its folder."""
    trainer = make_trainer()
    train(tmp_path, TrainwirePlugin(tmp_path / "run"), trainer=trainer, max_epochs=1)
    plugins = trainer.model.model_card["training_parameters"]["plugins"]
    assert plugins[0] == {
        "__cls__": "trainwire.integrations.flair.TrainwirePlugin", "run_folder": str(tmp_path / "run"),
    }  # fmt: skip
