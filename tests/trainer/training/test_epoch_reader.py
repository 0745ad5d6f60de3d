"""Epochs of a number of batches, and trainings of a number of steps."""

from __future__ import annotations

import signal
from collections.abc import Iterator, Mapping
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from support.resumed_trainings import Interrupt, weights
from support.run_reader import read_events
from support.tiny_training import Recorder, linear, make_trainer, points, train
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset

from trainwire import Plugin, hook
from trainwire.training.hooks.payloads import (
    AfterTrainingBatch,
    AfterTrainingEpoch,
    BeforeTrainingBatch,
    BeforeTrainingEpoch,
)
from trainwire_protocol.errors import UsageError


class Noisy(Dataset[Any]):
    """48 points, to which noise from torch's generator is added when they are read."""

    def __len__(self) -> int:
        return 48

    def __getitem__(self, index: int) -> Any:
        inputs, label = points(48)[index]
        return inputs + torch.randn(4), label


class Stream(IterableDataset[Any]):
    """Numbered points: an endless stream, or one of so many points."""

    def __init__(self, count: int | None = None) -> None:
        self.count = count

    def __iter__(self) -> Iterator[Any]:
        number = 0
        while number != self.count:
            yield torch.full((4,), float(number)), number % 2
            number += 1


class StatefulLoader(DataLoader[Any]):
    """Skips the batches before its position itself."""

    position = 0
    skipped = 0

    def __iter__(self) -> Any:
        return self._after(super().__iter__())

    def _after(self, batches: Iterator[Any]) -> Iterator[Any]:
        start, self.position = self.position, 0
        for batch in batches:
            self.position += 1
            if self.position > start:
                yield batch
            else:
                self.skipped += 1
        self.position = 0

    def state_dict(self) -> dict[str, Any]:
        return {"position": self.position}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.position = state["position"]


class Noise(Plugin):
    """Changes the weights by random numbers, as dropout would."""

    @hook
    def after_training_batch(self, batch: AfterTrainingBatch) -> None:
        with torch.no_grad():
            for parameter in self.run.model.parameters():
                parameter.add_(torch.randn_like(parameter), alpha=0.01)


def test_an_epoch_continues_where_the_one_before_it_stopped(tmp_path: Path) -> None:
    """Three epochs of two batches read the same as two passes over three batches."""
    passes, epochs, recorder = linear(), linear(), Recorder()
    options: dict[str, Any] = {"attach_default_scheduler": False, "use_final_model_for_eval": True}
    train(tmp_path / "passes", trainer=make_trainer(passes), max_epochs=2, **options)
    trainer = make_trainer(epochs)
    trainer.on("after_setup")(lambda setup: planned.append(trainer.run.planned_steps))
    planned: list[int | None] = []
    result = train(tmp_path / "epochs", recorder, trainer=trainer, max_epochs=3, batches_per_epoch=2, **options)
    assert (result.epochs, result.steps, planned) == (3, 6, [6])
    assert torch.equal(passes.weight, epochs.weight)
    assert [epoch.batches for epoch in recorder.of(BeforeTrainingEpoch)] == [2, 2, 2]
    assert [batch.number for batch in recorder.of(BeforeTrainingBatch)] == [1, 2] * 3
    assert [len(metrics) > 3 for metrics in result.history] == [True] * 3


@pytest.mark.parametrize(("count", "expected"), [(None, [0, 4, 8, 12, 16, 20]), (20, [0, 4, 8, 12, 16, 0])])
def test_a_stream_is_read_on(tmp_path: Path, count: int | None, expected: list[int]) -> None:
    """A stream that ends within an epoch is read again from its beginning."""
    recorder = Recorder()
    result = train(tmp_path, recorder, train=DataLoader(Stream(count), 4), max_epochs=2, batches_per_epoch=3)
    assert result.steps == 6
    assert [int(batch.batch[0][0, 0]) for batch in recorder.of(BeforeTrainingBatch)] == expected


class InterruptAtEpochEnd(Plugin):
    """Raises SIGTERM after the second epoch was evaluated."""

    @hook(once=2)
    def after_training_epoch(self, epoch: AfterTrainingEpoch) -> None:
        signal.raise_signal(signal.SIGTERM)


@pytest.mark.parametrize(
    ("kind", "step"),
    [*(("dataset", step) for step in (1, 2, 3, 4, None)), *product(("stream", "stateful"), (1, 3, None))],
)
def test_a_resumed_training_continues_the_pass(tmp_path: Path, kind: str, step: int | None) -> None:
    """It ends with the same weights, whether it was interrupted in an epoch, at its end, or at the end of a pass."""
    loaders: list[StatefulLoader] = []

    def part(name: str, *plugins: Plugin) -> Tensor:
        loaders.append(StatefulLoader(points(48), 16))
        data = {"dataset": Noisy(), "stream": DataLoader(Stream(), 16), "stateful": loaders[-1]}[kind]
        return weights(tmp_path / name, (Noise(), *plugins), train=data, max_epochs=4, batches_per_epoch=2)

    whole = part("whole")
    part("parts", Interrupt(step) if step else InterruptAtEpochEnd())
    assert torch.equal(part("parts"), whole)
    assert loaders[-1].skipped in ((1, 3) if kind == "stateful" else (0,))


@pytest.mark.parametrize(("batches", "steps"), [(3, 7), (4, 8), (6, 12)])
def test_a_resumed_epoch_may_have_another_number_of_batches(tmp_path: Path, batches: int, steps: int) -> None:
    """It ends at once if it has as many already, and the next epoch continues the pass."""
    options: dict[str, Any] = {"max_epochs": 2, "train": DataLoader(Stream(), 4), "resume": True}
    train(tmp_path, Interrupt(4), batches_per_epoch=5, **options)
    recorder = Recorder()
    assert train(tmp_path, recorder, batches_per_epoch=batches, **options).steps == steps
    assert [int(batch.batch[0][0, 0]) for batch in recorder.of(BeforeTrainingBatch)] == [*range(16, 4 * steps, 4)]


def test_a_loader_that_cannot_be_read_again_is_reported(tmp_path: Path) -> None:
    """If it has no batches when an epoch needs more of them."""
    once = iter(DataLoader(points(16), 4))

    class Once(IterableDataset[Any]):
        def __iter__(self) -> Iterator[Any]:
            return once

    with pytest.raises(UsageError, match="train had no batches in pass 2: check that its loader can be read again"):
        train(tmp_path, train=DataLoader(Once(), None), max_epochs=2, batches_per_epoch=3)


def test_steps_alone_end_a_training(tmp_path: Path) -> None:
    """Without `max_epochs` they are all made, and the number of epochs is known if the loader's length is."""
    recorder = Recorder()
    result = make_trainer().train(
        tmp_path, plugins=[recorder], train=points(32), mini_batch_size=16, max_steps=205, sinks=(),
        attach_default_scheduler=False,
    )  # fmt: skip
    assert (result.steps, result.epochs, result.reason) == (205, 103, "max_steps reached: 205")
    assert {epoch.max_epochs for epoch in recorder.of(BeforeTrainingEpoch)} == {103}
    result = make_trainer().fine_tune(tmp_path / "tune", train=points(8), max_steps=25, sinks=())
    assert (result.steps, result.epochs) == (25, 13)


def test_the_number_of_epochs_of_a_stream_is_unknown(tmp_path: Path) -> None:
    """Steps end the training then, and events and hooks have None."""
    recorder = Recorder()
    make_trainer().train(tmp_path, plugins=[recorder], train=DataLoader(Stream(8), 4), max_steps=3, sinks=())
    assert [epoch.max_epochs for epoch in recorder.of(BeforeTrainingEpoch)] == [None, None]
    starts = [event.value["max_epochs"] for event in read_events(tmp_path) if event.name == "epoch/started"]
    assert starts == [None, None]


def test_given_epochs_hold_beside_steps(tmp_path: Path) -> None:
    """Whichever comes first ends the training."""
    assert train(tmp_path / "a", max_epochs=1, max_steps=5).steps == 3
    assert train(tmp_path / "b", max_epochs=9, max_steps=5).steps == 5


def test_a_training_of_steps_goes_on_with_more_of_them(tmp_path: Path) -> None:
    """It is resumed if `max_steps` is larger, or if epochs are given instead."""
    options: dict[str, Any] = {"train": points(48), "mini_batch_size": 16, "sinks": (), "resume": True, "seed": 1}
    for more, steps in (({"max_steps": 4}, 4), ({"max_steps": 4}, 4), ({"max_steps": 7}, 7), ({"max_epochs": 4}, 10)):
        assert make_trainer().train(tmp_path, **options, **more).steps == steps
