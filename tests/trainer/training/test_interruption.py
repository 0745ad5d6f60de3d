"""Signals that arrive during an evaluation, or at any other time when no step follows soon."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from support.resumed_trainings import Interrupt
from support.run_reader import read_events
from support.tiny_training import Recorder, linear, make_trainer, points, train
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from trainwire import Plugin, Result, hook
from trainwire.checkpointing.checkpoint import list_checkpoints
from trainwire.plugins.ema import EMA
from trainwire.plugins.swa import SWA
from trainwire.training.hooks.payloads import AfterTrainingLoop, Payload, TrainingFinally, TrainingInterrupt


class Signalling(Dataset[Any]):
    """Points, one of which raises a signal when it is read in a training, once."""

    def __init__(self, count: int, at: int, seed: int = 1) -> None:
        self.points, self.at, self.is_armed = points(count, seed), at, True
        self.read: list[int] = []

    def __len__(self) -> int:
        return len(self.points)

    def __getitem__(self, index: int) -> Any:
        self.read.append(index)
        if index == self.at and self.is_armed and signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
            self.is_armed = False
            signal.raise_signal(signal.SIGTERM)
        return self.points[index]


def names_of(folder: Path, split: str) -> list[str]:
    """Return the names of what was recorded about a split."""
    events = read_events(folder)
    found = [event.name for event in events if event.name.startswith(f"{split}/")]
    return found + [
        event.name for event in events if event.name == "evaluation/finished" and event.value["split"] == split
    ]


def test_a_signal_in_the_evaluation_of_an_epoch_cuts_it_short(tmp_path: Path) -> None:
    """No score of the split is recorded, a checkpoint stands at the step, and no later split is evaluated."""
    dev, recorder = Signalling(40, 9), Recorder()
    result = train(
        tmp_path, recorder, train=points(48), dev=dev, test=points(8), monitor_test=True, eval_batch_size=4
    )  # fmt: skip
    assert (result.status, result.reason, result.steps) == ("interrupted", "SIGTERM", 3)
    assert max(dev.read) == 11
    assert not names_of(tmp_path, "dev")
    assert not names_of(tmp_path, "test")
    assert result.history[0].keys() == {"train/loss", "learning_rate", "optimizer/momentum"}
    label = list_checkpoints(tmp_path)[0].label
    assert (label.step, label.epoch_is_over) == (3, False)
    assert [payload.reason for payload in recorder.of(TrainingInterrupt)] == ["SIGTERM"]


class Noise(Plugin):
    """Draws from torch's generator in each epoch, so that a different random state shows in the weights."""

    @hook("before_training_epoch")
    def add(self, payload: Payload) -> None:
        with torch.no_grad():
            for parameter in self.run.model.parameters():
                parameter.add_(0.1 * torch.randn_like(parameter))


def trained(folder: Path, split: str, plugins: Callable[[], tuple[Plugin, ...]], armed: bool) -> tuple[Tensor, Any]:
    """Return weights and history of a training, whose loaders draw from torch's generator; resume it if interrupted."""
    data = Signalling(40, 21)
    data.is_armed = armed
    for _ in range(2):
        torch.manual_seed(4)
        model = nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.4), nn.Linear(4, 2))
        splits = {"dev": points(16, 1), "test": points(16, 2)} | {split: data}
        loaders = {name: DataLoader(part, 8, shuffle=True) for name, part in splits.items()}
        result = train(
            folder, *plugins(), trainer=make_trainer(model), train=DataLoader(points(48), 16, shuffle=True),
            monitor_test=True, max_epochs=3, seed=None, resume=True, use_final_model_for_eval=True, **loaders,
        )  # fmt: skip
        if result.status == "finished":
            break
    assert result.status == "finished"
    assert not data.is_armed
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()]), result.history


@pytest.mark.parametrize("split", ["dev", "test"])
@pytest.mark.parametrize("plugins", [lambda: (Noise(),), lambda: (Noise(), EMA(0.5)), lambda: (Noise(), SWA(2))])
def test_a_training_interrupted_in_an_evaluation_is_resumed_exactly(
    tmp_path: Path, split: str, plugins: Callable[[], tuple[Plugin, ...]]
) -> None:
    """The evaluation is repeated with the random states from before it; splits that were finished are not."""
    whole, history = trained(tmp_path / "whole", split, plugins, armed=False)
    parts, joined = trained(tmp_path / "parts", split, plugins, armed=True)
    assert torch.equal(parts, whole)
    assert joined == history


def test_a_resumed_training_does_not_read_the_epoch_again(tmp_path: Path) -> None:
    """If it was interrupted in the evaluation, its batches are not needed any more."""
    data, dev = Signalling(48, -1), Signalling(16, 3)
    for _ in range(2):
        train(tmp_path, train=data, dev=dev, eval_batch_size=2, max_epochs=1, resume=True)
    assert len(data.read) - len(set(data.read)) <= 4  # a dry run may read some


def test_a_signal_in_the_final_test_is_seen(tmp_path: Path) -> None:
    """The training ends as interrupted, with its models and without scores of the test split."""
    test, recorder = Signalling(400, 3, seed=2), Recorder()
    result = train(tmp_path, recorder, train=points(48), dev=points(16), test=test, eval_batch_size=4)
    assert (result.status, result.reason, result.epochs) == ("interrupted", "SIGTERM", 2)
    assert (result.test_metrics, result.test_score) == ({}, None)
    assert len(test.read) <= 16
    assert (tmp_path / "final-model.pt").exists()
    assert not names_of(tmp_path, "test")
    last = read_events(tmp_path)[-1]
    assert (last.name, last.value["reason"]) == ("run/interrupted", "SIGTERM")
    assert [payload.status for payload in recorder.of(TrainingFinally)] == ["interrupted"]
    assert len(recorder.of(TrainingInterrupt)) == 1


def test_an_interrupted_final_test_is_made_up_for(tmp_path: Path) -> None:
    """A resumed training trains nothing more than what no checkpoint contains, and tests the best model."""
    whole = train(tmp_path / "whole", train=points(48), dev=points(16, 1), test=points(16, 2))
    for _ in range(2):
        test = Signalling(16, 3, seed=2)
        test.is_armed = not (tmp_path / "parts").exists()
        result = train(
            tmp_path / "parts", train=points(48), dev=points(16, 1), test=test, eval_batch_size=2, resume=True
        )  # fmt: skip
    assert result.status == "finished"
    assert result.test_score == whole.test_score


@pytest.mark.parametrize("split", ["dev", "test"])
def test_a_signal_in_the_last_batch_of_an_evaluation_loses_no_scores(tmp_path: Path, split: str) -> None:
    """What is whole is recorded; the training ends after it."""
    model = linear()

    def loss(output: Tensor, target: Tensor) -> Tensor:
        if not model.training and target.equal(last):
            signal.raise_signal(signal.SIGINT)
        return nn.functional.cross_entropy(output, target)

    data, last = points(16, 1), points(16, 1).tensors[1][8:]
    trainer = make_trainer(model, loss=loss)
    result = train(
        tmp_path, trainer=trainer, train=DataLoader(points(48), 16), eval_batch_size=8, max_epochs=1, **{split: data}
    )  # fmt: skip
    assert (result.status, result.reason, result.epochs) == ("interrupted", "Ctrl-C", 1)
    scores = result.history[0] if split == "dev" else result.test_metrics
    assert {f"{split}/loss", f"{split}/accuracy"} <= scores.keys()


def test_a_signal_in_a_requested_evaluation_is_seen(tmp_path: Path) -> None:
    """The checkpoint is that of the step after which it was requested."""
    trainer = make_trainer()

    @trainer.on("after_training_batch", once=2)
    def evaluate(batch: object) -> None:
        trainer.control.evaluate()

    result = train(tmp_path, trainer=trainer, train=points(48), dev=Signalling(40, 1), eval_batch_size=4)
    assert (result.status, result.steps) == ("interrupted", 2)
    assert not names_of(tmp_path, "dev")
    assert [checkpoint.label.step for checkpoint in list_checkpoints(tmp_path)] == [2]


@pytest.mark.parametrize("hook_name", ["after_training_loop", "training_finally", "after_evaluation"])
def test_a_signal_is_never_swallowed(tmp_path: Path, hook_name: str) -> None:
    """One that arrives when nothing is left to interrupt still gives the status, and so the caller knows of it."""
    trainer = make_trainer()
    trainer.on(hook_name)(lambda payload: signal.raise_signal(signal.SIGINT))
    result = train(tmp_path, trainer=trainer, train=points(48), max_epochs=1, test=None)
    if hook_name == "after_evaluation":  # nothing is evaluated, so the hook is not called
        assert result.status == "finished"
        return
    assert (result.status, result.reason) == ("interrupted", "Ctrl-C")
    assert read_events(tmp_path)[-1].name == "run/interrupted"


def test_a_signal_follows_a_stop(tmp_path: Path) -> None:
    """A training that a plugin stopped, and a signal interrupts in its final test, is interrupted."""
    trainer = make_trainer()

    @trainer.on("after_training_batch", once=2)
    def stop(batch: object) -> None:
        trainer.control.stop("enough")

    result = train(tmp_path, trainer=trainer, train=points(48), test=Signalling(40, 1), eval_batch_size=4)
    assert (result.status, result.reason, result.test_metrics) == ("interrupted", "SIGTERM", {})


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # torch's, when it ends the workers
def test_a_worker_that_the_signal_ends_does_not_fail_an_evaluation(tmp_path: Path) -> None:
    """Ctrl-C in a terminal reaches the workers of a loader too; the training is interrupted all the same."""

    class Fatal(Signalling):
        def __getitem__(self, index: int) -> Any:
            if index == 9:
                os.kill(os.getppid(), signal.SIGINT)
                os._exit(1)
            return self.points[index]

    result = train(
        tmp_path, train=points(48), dev=DataLoader(Fatal(40, -1), 4, num_workers=1), max_epochs=1
    )  # fmt: skip
    assert (result.status, result.reason) == ("interrupted", "Ctrl-C")
    assert not names_of(tmp_path, "dev")


def test_a_signal_while_batches_are_dropped_is_seen(tmp_path: Path) -> None:
    """A training that is interrupted before it has reached its position can be resumed again, exactly."""

    def run(folder: Path, *parts: tuple[int, int]) -> Tensor:
        for step, at in parts:
            model, data = linear(), Signalling(48, at, 0)
            options = {"train": data, "shuffle": False, "mini_batch_size": 8, "max_epochs": 1, "resume": True}
            train(folder, Interrupt(step), trainer=make_trainer(model), **options)
        return model.weight.detach()

    whole, parts = run(tmp_path / "whole", (-1, -1)), run(tmp_path / "parts", (5, -1), (-1, 17), (-1, -1))
    assert torch.equal(parts, whole)
    assert [event.name for event in read_events(tmp_path / "parts")].count("run/interrupted") == 2


def test_averaging_is_interrupted(tmp_path: Path) -> None:
    """A signal in the last pass of SWA over the training data ends it, and the model keeps the trained weights."""
    model = nn.Sequential(nn.BatchNorm1d(4), linear())
    trainer = make_trainer(model)

    @trainer.on("after_training_loop")
    def interrupt(ending: AfterTrainingLoop) -> None:
        before.append({name: value.clone() for name, value in model.state_dict().items()})
        signal.raise_signal(signal.SIGINT)

    before: list[dict[str, Tensor]] = []
    result = train(tmp_path, SWA(1), trainer=trainer, train=points(48))
    assert result.status == "interrupted"
    assert all(torch.equal(value, before[0][name]) for name, value in model.state_dict().items())
    assert model.training


def test_a_signal_interrupts_a_training_inside_another(tmp_path: Path) -> None:
    """Both are interrupted, from the inside out, and the handlers are restored."""
    outer, inner, results = make_trainer(), make_trainer(), list[Result]()
    before = signal.getsignal(signal.SIGINT)

    @outer.on("after_training_epoch", once=1)
    def probe(epoch: object) -> None:
        results.append(train(tmp_path / "inner", trainer=inner, max_epochs=50))

    @inner.on("after_training_batch", once=4)
    def interrupt(batch: object) -> None:
        signal.raise_signal(signal.SIGINT)

    result = train(tmp_path / "outer", trainer=outer, max_epochs=5)
    assert (results[0].status, results[0].steps) == ("interrupted", 4)
    assert (result.status, result.epochs) == ("interrupted", 1)
    assert signal.getsignal(signal.SIGINT) is before
