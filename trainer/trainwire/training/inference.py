"""Evaluations and predictions outside of a training, of any data, in one process or in several."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any, Literal, Protocol, TypedDict

import torch
from torch.utils.data import DataLoader
from torch.utils.data.distributed import DistributedSampler

from trainwire.bus.bus import EventBus
from trainwire.bus.notice import is_shown
from trainwire.bus.open_bus import open_bus
from trainwire.training.control import Control
from trainwire.training.data.batches import samples_in
from trainwire.training.data.failures import note_batch
from trainwire.training.data.loaders import (
    Data,
    check_data,
    divides_samples,
    evaluation_loader,
    is_indexed,
    length_of,
    samplers_of,
)
from trainwire.training.data.outputs import first_samples, interleaved, on_cpu
from trainwire.training.data.streams import DividedStream
from trainwire.training.distributed.processes import SINGLE, Processes, connected
from trainwire.training.epoch_reader import generators_in
from trainwire.training.evaluation import mean_scores
from trainwire.training.forward import EvaluationForward
from trainwire.training.hooks.payloads import MetricValue
from trainwire.training.model.losses import checked_loss
from trainwire.training.model.models import not_distributed
from trainwire.training.model.modes import evaluation_mode
from trainwire.training.model.precision import Precision
from trainwire.training.options.options import TrainingOptions
from trainwire.training.setup import Trainer, place_trainer
from trainwire.training.state import random_states, restore_random_states


class InferenceOptionsDict(TypedDict, total=False):
    """The options of `evaluate`, `predict` and `predict_batches` as keyword arguments.

    They are options of `train` too. The defaults are those of the fields of `TrainingOptions`.
    """

    mini_batch_size: int
    """The number of samples in a batch, in each process. A DataLoader keeps its own batch size."""
    collate_fn: Callable[[list[Any]], Any] | None
    """Returns a batch for a list of samples; None: torch's default. A DataLoader keeps its own."""
    num_workers: int
    """The number of processes that load data. A DataLoader keeps its own."""
    use_amp: bool | Literal["bf16", "fp16"]
    """Use automatic mixed precision: bf16 or fp16; True: bf16 if the device supports it, fp16 otherwise."""
    multi_gpu: bool | None
    """Divide the samples among the processes that torchrun started; None: if it started more than one."""
    device: str | torch.device | None
    """The device to which the model is moved; None: the model's device."""
    quiet: bool
    """Print nothing on a terminal, such as the progress bar. The environment variable TRAINWIRE_QUIET does the same."""


class InferenceTrainer(Trainer, Protocol):
    """The parts of a `ModelTrainer` that an inference uses."""

    def predict_batch(self, batch: Any) -> Any:
        """Return the model's output for a batch."""


class Inference:
    """The model of a trainer, and the data to evaluate it on or to predict outputs for.

    Args:
        data: A Dataset, which several processes divide, or a DataLoader.
        given: The options, as in `InferenceOptionsDict`.
        caller: The name of the trainer's method.

    Raises:
        OptionError: if an argument is invalid.
    """

    def __init__(self, trainer: InferenceTrainer, data: Data, given: Mapping[str, Any], caller: str) -> None:
        self.options = TrainingOptions.from_keywords(given, caller, names=InferenceOptionsDict.__annotations__)
        check_data("data", data)
        self.processes = Processes.from_environment(self.options.multi_gpu)
        if self.processes.several:
            trainer.model = not_distributed(trainer.model)
        self.batches = self._trainer = trainer
        self.device = place_trainer(trainer, self.options, self.processes)
        self.precision = Precision(self.device, self.options.use_amp)
        self.metrics = trainer.metrics
        self.control = Control()
        sharing = self.processes if is_divisible(data, self.processes) else SINGLE
        self.loader = evaluation_loader(data, self.options, self.device, sharing)
        self._is_divided = sharing.several or divides_samples(self.loader)
        is_known = is_indexed(data) or isinstance(self.loader.dataset, DividedStream)
        self._is_repeated = is_known and not sharing.several
        """Whether each process reads all samples; a DataLoader or a stream may divide them in a way of its own."""
        self._caller = caller
        self._aside = _Aside(trainer, self.loader)

    def scores(self, split: str | None, folder: Path | None) -> dict[str, MetricValue]:
        """Return the mean loss and the metrics, and publish them in a run's folder.

        Args:
            split: The beginning of their names, if there is one.
        """
        loss = checked_loss(self._trainer.loss)
        name, started = split or "evaluation", time.monotonic()
        with self._connected(), self._bus(folder) as bus, self._aside():
            if bus is not None:
                bus.publish("evaluation/started", {"split": name}, "lifecycle")
            forward = EvaluationForward(self._trainer.forward, loss, self.metrics)
            scores = mean_scores(self, split or "data", self._shown(), forward, is_divided=not self._is_repeated)
            if bus is not None:
                _publish(bus, name, scores, time.monotonic() - started)
        return {f"{split}/{metric}" if split else metric: value for metric, value in scores.items()}

    def outputs(self) -> Iterator[Any]:
        """Yield the outputs for the batches, in the order of the samples, on the CPU.

        If several processes divide the samples, each of them yields the outputs of all.
        """
        with self._connected():
            own = self._own_outputs()
            if not (self.processes.several and self._is_divided):
                yield from (output for output, _ in own)
                return
            remaining = self._samples()
            while found := [part for part in self.processes.gather_objects(next(own, None)) if part is not None]:
                outputs, samples = zip(*found, strict=True)
                output, count = interleaved(outputs, samples), sum(samples)
                if remaining is not None and count > remaining:  # a DistributedSampler repeats the first samples
                    output, count = first_samples(output, remaining, count), remaining
                remaining = None if remaining is None else remaining - count
                if count:
                    yield output

    def _own_outputs(self) -> Iterator[tuple[Any, int]]:
        """Yield the output for each batch of this process, and its number of samples."""
        batches = self._shown()
        while True:
            with self._aside():
                batch = next(batches, batches)
                if batch is batches:
                    return
                batch = self.batches.batch_to_device(batch, self.device)
                try:
                    with self.precision.autocast():
                        output = self._trainer.predict_batch(batch)
                    samples = samples_in(self.batches, batch) if self._is_divided else 0
                    result = on_cpu(output, self.device), samples
                except Exception as error:
                    note_batch(error, "data", batch)
                    raise
            yield result

    def _samples(self) -> int | None:
        """Return the number of samples of all processes."""
        samplers = (part for part in samplers_of(self.loader) if isinstance(part, DistributedSampler))
        return next((length_of(part.dataset) for part in samplers), None)

    @contextmanager
    def _connected(self) -> Iterator[None]:
        alone = self.processes
        try:
            with connected(alone, self.device) as self.processes:
                yield
        finally:
            self.processes = alone

    def _bus(self, folder: Path | None) -> AbstractContextManager[EventBus | None]:
        if folder is None:
            return nullcontext()
        rank, size = self.processes.rank, self.processes.world_size
        return open_bus(folder, rank=rank, world_size=size, append=True, quiet=self.options.quiet)

    def _shown(self) -> Iterator[Any]:
        """Yield the batches, with a progress bar if standard error is a terminal."""
        if not is_shown(self.processes.rank, quiet=self.options.quiet):
            yield from self.loader
            return
        from rich.console import Console  # for a terminal only
        from rich.progress import track

        yield from track(self.loader, self._caller, length_of(self.loader), console=Console(stderr=True))


def is_divisible(data: Data, processes: Processes) -> bool:
    """Return whether each process can have samples of its own."""
    return is_indexed(data) and (length_of(data) or 0) >= processes.world_size


def _publish(bus: EventBus, split: str, scores: Mapping[str, MetricValue], seconds: float) -> None:
    metrics = {f"{split}/{name}": value for name, value in scores.items()}
    bus.log({name: value for name, value in metrics.items() if not isinstance(value, list)})
    for name, value in metrics.items():
        if isinstance(value, list):
            bus.scalars(name, value)
    bus.publish("evaluation/finished", {"split": split, "metrics": metrics, "seconds": seconds}, "lifecycle")


class _Aside:
    """Contexts with the model in evaluation mode, after each of which the program's random states are restored.

    What is computed in them draws one sequence of random numbers, whatever the program draws between them.
    """

    def __init__(self, trainer: Trainer, loader: DataLoader[Any]) -> None:
        self._trainer = trainer
        self._generators = generators_in([loader])
        self._own: dict[str, Any] | None = None

    @contextmanager
    def __call__(self) -> Iterator[None]:
        before = random_states(self._generators)
        if self._own is not None:
            restore_random_states(self._own, self._generators)
        try:
            with evaluation_mode(self._trainer.model):
                yield
        finally:
            self._own = random_states(self._generators)
            restore_random_states(before, self._generators)
