"""Trainings that are resumed with another number of processes."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from support.resumed_trainings import Interrupt
from support.tiny_training import points, train
from torch.utils.data import IterableDataset, TensorDataset

from trainwire import DividedStream, Plugin, hook
from trainwire.checkpointing.checkpoint import data_path, label_path, list_checkpoints
from trainwire.training.hooks.payloads import BeforeTrainingBatch


class Stream(IterableDataset[Any]):
    """Points with their numbers."""

    def __init__(self, count: int) -> None:
        self.count = count

    def __iter__(self) -> Iterator[Any]:
        return iter(numbered(self.count))


class Seen(Plugin):
    """Removes the numbers of the samples from the batches, and keeps them."""

    def __init__(self) -> None:
        self.numbers: list[int] = []

    @hook
    def before_training_batch(self, batch: BeforeTrainingBatch) -> None:
        inputs, target, numbers = batch.batch
        self.numbers += numbers.tolist()
        batch.batch = [inputs, target]


def numbered(count: int) -> TensorDataset:
    return TensorDataset(*points(count).tensors, torch.arange(count))


def as_of_two_processes(folder: Path) -> None:
    """Make the latest checkpoint one of two processes, so that they had read twice as many samples."""
    checkpoint = list_checkpoints(folder)[0].folder
    label = json.loads(label_path(checkpoint, 0).read_text())
    shutil.copy(data_path(checkpoint, 0), data_path(checkpoint, 1))
    for rank in (0, 1):
        label_path(checkpoint, rank).write_text(json.dumps({**label, "rank": rank, "world_size": 2}))


@pytest.mark.parametrize(("workers", "first"), [(0, 24), (2, 16)])
def test_a_divided_stream_goes_on_where_it_stopped(tmp_path: Path, workers: int, first: int) -> None:
    """No sample is left out, and none is used twice; with workers, those of at most one batch of each are."""
    options: dict[str, Any] = {"mini_batch_size": 4, "max_epochs": 1, "resume": True, "num_workers": workers}
    train(tmp_path, Seen(), Interrupt(3), train=DividedStream(Stream(48)), **options)
    as_of_two_processes(tmp_path)
    seen = Seen()
    train(tmp_path, seen, train=DividedStream(Stream(48)), **options)
    assert sorted(seen.numbers) == [*range(first, 48)]


def test_the_last_batches_may_have_been_smaller(tmp_path: Path) -> None:
    """Two processes read 42 samples in five batches each, and one reads them in nine."""
    options: dict[str, Any] = {"mini_batch_size": 5, "max_epochs": 1, "resume": True}
    train(tmp_path, Seen(), Interrupt(5), train=DividedStream(Stream(42)), **options)
    as_of_two_processes(tmp_path)
    assert train(tmp_path, Seen(), train=DividedStream(Stream(42)), **options).steps == 5


def test_an_epoch_of_a_number_of_batches_goes_on_with_the_same_number(tmp_path: Path) -> None:
    """It ends after as many batches of each process as were planned, and continues the pass over the data."""
    options: dict[str, Any] = {
        "train": numbered(48), "shuffle": False, "mini_batch_size": 4, "batches_per_epoch": 6, "max_epochs": 2,
        "resume": True,
    }  # fmt: skip
    train(tmp_path, Seen(), Interrupt(4), **options)
    as_of_two_processes(tmp_path)
    seen = Seen()
    assert train(tmp_path, seen, **options).steps == 12
    assert seen.numbers == [*range(32, 48), *range(16)]
