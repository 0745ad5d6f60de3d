"""Streams: how processes and workers divide them, and how a training is resumed within one."""

from __future__ import annotations

import signal
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from support.resumed_trainings import Interrupt, weights
from support.tiny_training import points, train
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from trainwire import DividedStream, Plugin, hook
from trainwire.checkpointing.checkpoint import list_checkpoints
from trainwire.plugins.checkpoints import Checkpoints
from trainwire.training.data.loaders import set_epoch, training_loader
from trainwire.training.distributed.processes import SINGLE, Processes
from trainwire.training.hooks.payloads import AfterSetup, AfterTrainingBatch, BeforeEvaluation
from trainwire.training.options.options import TrainingOptions
from trainwire_protocol.errors import UsageError

CPU = torch.device("cpu")
POINTS = list(points(48))


class Numbers(IterableDataset[int]):
    """The numbers from ten times the epoch on."""

    epoch = 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __iter__(self) -> Iterator[int]:
        return iter(range(10 * self.epoch, 10 * self.epoch + 10))


class NoisyStream(IterableDataset[Any]):
    """Points with noise that is drawn as they are read, in the worker that reads them."""

    def __iter__(self) -> Iterator[Any]:
        worker = get_worker_info()
        for inputs, target in POINTS[worker.id :: worker.num_workers] if worker else POINTS:
            yield inputs + torch.randn(4), target


class Restarting(NoisyStream):
    """Starts again in each epoch, unless a state was loaded."""

    def __init__(self) -> None:
        self.first = self.position = self.reads = 0

    def __iter__(self) -> Iterator[Any]:
        first, self.first = self.first, 0
        for self.position in range(first + 1, len(POINTS) + 1):
            self.reads += 1
            yield POINTS[self.position - 1]

    def state_dict(self) -> dict[str, Any]:
        return {"position": self.position}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.first = state["position"]


class Endless(NoisyStream):
    """Continues in each epoch where the one before it ended."""

    def __init__(self) -> None:
        self.position = 0

    def __iter__(self) -> Iterator[Any]:
        while True:
            self.position += 1
            yield POINTS[self.position * 7 % len(POINTS)]

    def state_dict(self) -> dict[str, Any]:
        return {"position": self.position}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.position = state["position"]


class EndEpoch(Plugin):
    """Ends each epoch after two batches."""

    @hook
    def after_training_batch(self, batch: AfterTrainingBatch) -> None:
        if batch.number == 2:
            self.run.control.end_epoch()


@pytest.mark.parametrize("workers", [0, 2])
def test_processes_and_workers_divide_a_stream(workers: int) -> None:
    """Each sample is read once, and the samples of a process are those of its rank; the stream is given the epoch."""
    options = TrainingOptions(num_workers=workers, mini_batch_size=2)
    parts = []
    for rank in (0, 1):
        loader = training_loader(DividedStream(Numbers()), options, 0, CPU, Processes(rank, 2))
        set_epoch(loader, 3)
        parts.append(sorted(torch.cat(list(loader)).tolist()))
    assert parts == [[30, 32, 34, 36, 38], [31, 33, 35, 37, 39]]


def test_a_divided_stream_in_a_loader_is_divided_too() -> None:
    """The trainer tells the rank also to the stream of a DataLoader, and to that of a later training alone."""
    loader: DataLoader[Any] = DataLoader(DividedStream(Numbers()), batch_size=5)
    assert training_loader(loader, TrainingOptions(), 0, CPU, Processes(1, 2)) is loader
    assert [batch.tolist() for batch in loader] == [[1, 3, 5, 7, 9]]
    assert [len(batch) for batch in training_loader(loader, TrainingOptions(), 0, CPU, SINGLE)] == [5, 5]


def test_readers_of_the_same_samples_are_reported(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The log names the split and the remedy, and says nothing of one that is divided, or that one process reads."""
    message = "dev is a stream that 2 processes or workers read: each reads all of it, unless the stream divides itself"
    for name, dev, workers in (
        ("a", NoisyStream(), 0),
        ("b", DividedStream(NoisyStream()), 2),
        ("c", NoisyStream(), 2),
    ):
        assert message not in caplog.text
        train(tmp_path / name, train=points(16), dev=dev, num_workers=workers, max_epochs=1)
    assert message in caplog.text


@pytest.mark.parametrize("workers", [0, 2])
def test_a_training_is_resumed_within_a_stream(tmp_path: Path, workers: int) -> None:
    """A stream without a state is read again up to the batch, with the same random numbers."""

    def options() -> dict[str, Any]:
        return {"train": NoisyStream(), "dev": NoisyStream(), "num_workers": workers, "max_epochs": 2}

    whole = weights(tmp_path / "whole", (), **options())
    weights(tmp_path / "parts", (Interrupt(4 + workers),), **options())
    assert torch.equal(weights(tmp_path / "parts", (), **options()), whole)


@pytest.mark.parametrize("step", [2, 3, 4])
def test_a_stream_restores_its_position(tmp_path: Path, step: int) -> None:
    """No sample is read a second time, and the next epoch starts at the beginning of the stream."""
    whole = weights(tmp_path / "whole", (), train=Restarting())
    weights(tmp_path / "parts", (Interrupt(step),), train=Restarting())
    stream = Restarting()
    assert torch.equal(weights(tmp_path / "parts", (), train=stream), whole)
    assert stream.reads == 3 * 48 - step * 16


@pytest.mark.parametrize("step", [2, 3, 4])
def test_the_next_epoch_continues_an_endless_stream(tmp_path: Path, step: int) -> None:
    """Also if the training was resumed within an epoch, or after one that a plugin has ended."""
    whole = weights(tmp_path / "whole", (EndEpoch(),), train=Endless())
    weights(tmp_path / "parts", (EndEpoch(), Interrupt(step)), train=Endless())
    assert torch.equal(weights(tmp_path / "parts", (EndEpoch(),), train=Endless()), whole)

    weights(tmp_path / "epochs", (EndEpoch(), Checkpoints(epochs=1)), train=Endless(), max_epochs=1)
    assert torch.equal(weights(tmp_path / "epochs", (EndEpoch(),), train=Endless()), whole)


class OtherIsShorter(Processes):
    """This process, and another one that has two batches in each pass."""

    def while_all_have(self, items: Iterator[Any]) -> Iterator[Any]:
        for number, item in enumerate(items):
            if number == 2:
                return  # the third one was read, and is dropped
            yield item


class Uneven(Plugin):
    """Lets the training take part with a shorter process."""

    @hook
    def after_setup(self, setup: AfterSetup) -> None:
        self.run.processes, self.run.is_uneven = OtherIsShorter(), True


class InterruptEvaluation(Plugin):
    """Raises SIGTERM in the evaluation after the first epoch."""

    @hook(once=1)
    def before_evaluation(self, evaluation: BeforeEvaluation) -> None:
        signal.raise_signal(signal.SIGTERM)


@pytest.mark.parametrize("interrupts", [True, False])
def test_a_stream_goes_on_after_another_process_ended_the_epoch(tmp_path: Path, interrupts: bool) -> None:
    """A resumed training continues it where the uninterrupted one does, before or after the evaluation of the epoch."""

    def part(folder: str, *plugins: Plugin, epochs: int = 3) -> Tensor:
        options: dict[str, Any] = {"train": Endless(), "dev": points(32), "mini_batch_size": 8, "max_epochs": epochs}
        return weights(tmp_path / folder, (Uneven(), *plugins), **options)

    whole = part("whole")
    part("parts", *([InterruptEvaluation()] if interrupts else []), epochs=3 if interrupts else 1)
    latest = list_checkpoints(tmp_path / "parts")[0].label
    assert (latest.step, latest.epoch_is_over) == (2, not interrupts)
    assert torch.equal(part("parts"), whole)


def test_a_stream_that_has_become_shorter_is_an_error(tmp_path: Path) -> None:
    """A resumed training says how many batches there were."""
    weights(tmp_path, (Interrupt(2),), train=NoisyStream())
    with pytest.raises(UsageError, match="train has 0 batches, but the training to resume had read 2"):
        weights(tmp_path, (), train=DataLoader(NoisyStream(), 99, drop_last=True))
