"""The events that a training records in the journal."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
import torch
from support.run_reader import read_events
from support.tiny_training import Recorder, linear, make_trainer, train
from torch.optim import SGD
from torchmetrics.classification import MulticlassAccuracy, MulticlassConfusionMatrix

from trainwire import Plugin, hook
from trainwire.training.hooks.payloads import AfterTrainingEpoch, MetricRecorded
from trainwire.training.run import TrainingRun
from trainwire_protocol.events import Event


def steps_of(events: list[Event]) -> dict[str, list[int]]:
    """The steps at which each metric was recorded."""
    steps: dict[str, list[int]] = defaultdict(list)
    for event in events:
        if event.type in ("scalar", "scalars"):
            steps[event.name].append(event.step)
    return dict(steps)


def lifecycle(events: list[Event]) -> list[tuple[str, Any]]:
    return [(event.name, event.value) for event in events if event.type == "lifecycle"]


def test_every_metric_is_on_the_wire_with_its_step(tmp_path: Path) -> None:
    """Metrics of a step have the number of updates made, from 1; those of an epoch the number at its end."""
    train(tmp_path)
    events = read_events(tmp_path)
    assert steps_of(events) == {
        "train/batch_loss": [1, 2, 3, 4, 5, 6], "train/gradient_norm": [1, 2, 3, 4, 5, 6],
        "train/loss": [3, 6], "learning_rate": [3, 6], "optimizer/momentum": [3, 6],
        "dev/loss": [3, 6], "dev/accuracy": [3, 6], "test/loss": [6], "test/accuracy": [6],
    }  # fmt: skip


def test_what_happens_is_on_the_wire_in_order(tmp_path: Path) -> None:
    """Epochs, evaluations and checkpoints are recorded as they begin and end, and the end of the run last."""
    result = train(tmp_path, max_epochs=1)
    everything = lifecycle(read_events(tmp_path))
    names = [name for name, _ in everything]
    # A thread saves the checkpoint meanwhile, so it may be saved during the test.
    checkpoint = next(each for each in everything if each[0] == "checkpoint/saved" and each[1]["kind"] == "resume")
    assert names.index("run/marked") < everything.index(checkpoint) < names.index("run/finished")
    recorded = [each for each in everything if each is not checkpoint]
    assert [name for name, _ in recorded] == [
        "run/started", "epoch/started", "evaluation/started", "evaluation/finished", "checkpoint/saved",
        "epoch/finished", "run/marked", "checkpoint/saved", "evaluation/started", "evaluation/finished",
        "run/finished",
    ]  # fmt: skip
    values = dict(recorded[:6])
    assert values["epoch/started"] == {"epoch": 1, "max_epochs": 1, "batches": 3}
    finished = values["epoch/finished"]
    assert (finished["epoch"], finished["complete"], finished["bad_epochs"]) == (1, True, 0)
    assert finished["seconds"] > 0
    best = finished["best"]
    assert (best["epoch"], best["metric"], best["score"]) == (1, "dev/accuracy", finished["metrics"]["dev/accuracy"])
    assert finished["metrics"] == result.history[0]
    assert values["evaluation/finished"]["metrics"].keys() == {"dev/loss", "dev/accuracy"}
    assert (recorded[-2][1]["split"], recorded[-2][1]["metrics"]) == ("test", result.test_metrics)
    assert recorded[-1][1]["reason"] == "max_epochs reached: 1"


def test_the_epoch_ends_on_the_wire_after_its_plugins(tmp_path: Path) -> None:
    """What the last plugin records in an epoch precedes `epoch/finished`, and is in it."""

    class Late(Plugin):
        @hook
        def after_training_epoch(self, epoch: AfterTrainingEpoch) -> None:
            self.run.record_epoch({"train_sample/loss": 0.5})
            assert epoch.metrics["train_sample/loss"] == 0.5

    train(tmp_path, Late(), max_epochs=1)
    events = read_events(tmp_path)
    names = [event.name for event in events]
    assert names.index("train_sample/loss") < names.index("epoch/finished")
    assert events[names.index("epoch/finished")].value["metrics"]["train_sample/loss"] == 0.5


def test_every_metric_goes_through_metric_recorded(tmp_path: Path) -> None:
    """Plugins receive exactly the metrics that are published, with name, type and step, in the same order."""
    recorder = Recorder()
    train(tmp_path, recorder)
    received = [(metric.name, metric.type, metric.step) for metric in recorder.of(MetricRecorded)]
    sent = [(event.name, event.type, event.step) for event in read_events(tmp_path) if event.type.startswith("scalar")]
    assert received == sent
    losses = [metric.value for metric in recorder.of(MetricRecorded) if metric.name == "train/batch_loss"]
    assert all(isinstance(loss, torch.Tensor) and not loss.requires_grad for loss in losses)


def test_a_metric_recorded_in_a_hook_is_seen_by_the_next(tmp_path: Path) -> None:
    """`metric_recorded` is called before the hook that recorded the metric continues."""
    seen: list[str] = []

    class Source(Plugin):
        @hook
        def after_training_epoch(self, epoch: AfterTrainingEpoch) -> None:
            self.run.record({"mine": 1.0})
            seen.append("recorded")

    class Reader(Plugin):
        @hook
        def metric_recorded(self, metric: MetricRecorded) -> None:
            if metric.name == "mine":
                seen.append("seen")

        @hook
        def after_training_epoch(self, epoch: AfterTrainingEpoch) -> None:
            seen.append("next")

    train(tmp_path, Source(), Reader(), max_epochs=1)
    assert seen == ["seen", "recorded", "next"]


def test_differing_learning_rates_are_one_list(tmp_path: Path) -> None:
    """With two parameter groups `learning_rate` has a number for each, on the wire and in the epoch."""
    model = linear()
    groups = [{"params": [model.weight], "lr": 0.1}, {"params": [model.bias], "lr": 5e-5}]
    train(tmp_path, trainer=make_trainer(model), optimizer=SGD(groups), max_epochs=1)
    events = {event.name: event for event in read_events(tmp_path)}
    assert (events["learning_rate"].type, list(events["learning_rate"].value)) == ("scalars", [0.1, 5e-5])
    assert list(events["epoch/finished"].value["metrics"]["learning_rate"]) == [0.1, 5e-5]


def test_metrics_that_are_no_number_are_lists_or_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """One number for each class is recorded as a list; a matrix is not recorded, with a warning."""
    metrics = {"recall": MulticlassAccuracy(2, average=None), "confusion": MulticlassConfusionMatrix(2)}
    result = train(tmp_path, trainer=make_trainer(metrics=metrics), max_epochs=1, main_evaluation_metric="dev/loss")
    assert len(result.history[0]["dev/recall"]) == 2  # type: ignore[arg-type]  # a list
    assert "dev/confusion" not in result.history[0]
    assert "confusion is not recorded: it is neither a number nor a list" in caplog.text
    assert next(event for event in read_events(tmp_path) if event.name == "dev/recall").type == "scalars"


def test_the_test_split_can_be_monitored_and_dev_be_named(tmp_path: Path) -> None:
    """`monitor_test` evaluates the test split after each epoch too; `dev_name` is what the dev split is called."""
    result = train(tmp_path, monitor_test=True, dev_name="val")
    assert result.history[0].keys() >= {"val/accuracy", "test/accuracy"}
    assert steps_of(read_events(tmp_path))["test/accuracy"] == [3, 6, 6]


def test_the_hyperparameters_tell_how_it_is_trained(tmp_path: Path) -> None:
    """Options, the seed that was used, the model and its size are published first."""
    train(tmp_path, seed=None, learning_rate=0.25)
    hparams = next(event for event in read_events(tmp_path) if event.type == "hparams").value
    assert (hparams["learning_rate"], hparams["optimizer"]) == (0.25, "SGD")
    assert (hparams["model"], hparams["trainable_parameters"], hparams["loss"]) == ("Linear", 10, "CrossEntropyLoss")
    assert hparams["samples"] == {"train": 48, "dev": 16, "test": 16}
    assert isinstance(hparams["seed"], int)


def test_a_step_records_once_and_reads_no_tensor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All scalars of a step go in one call, as tensors; the loss is read once an epoch, whatever its length."""
    calls: list[Any] = []
    record = TrainingRun.record

    def count(run: TrainingRun, metrics: Any) -> None:
        calls.append(metrics)
        record(run, metrics)

    monkeypatch.setattr(TrainingRun, "record", count)
    train(tmp_path, max_epochs=1, mini_batch_size=4)
    steps = [metrics for metrics in calls if "train/batch_loss" in metrics]
    assert len(steps) == 12
    assert all(isinstance(value, torch.Tensor) for metrics in steps for value in metrics.values())


def test_nothing_is_built_for_hooks_without_listeners(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A step without listening hooks builds no payload."""

    def fail(*_: object) -> None:
        raise AssertionError("a payload was built")

    for module, name in (
        ("step", "BeforeTrainingBatch"), ("step", "BeforeTrainingOptimizerStep"), ("step", "AfterTrainingBatch"),
        ("run", "MetricRecorded"),
    ):  # fmt: skip
        payload = getattr(__import__(f"trainwire.training.{module}", fromlist=[name]), name)
        monkeypatch.setattr(payload, "__init__", fail)
    train(tmp_path, default_plugins=False)
