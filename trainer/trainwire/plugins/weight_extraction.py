"""Publishes some weights of each parameter."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

from trainwire.bus.values.gpu import GpuReadings
from trainwire.training.distributed.sharding import whole
from trainwire.training.hooks.hooks import hook
from trainwire.training.hooks.payloads import AfterTrainingBatch, TrainingFinally
from trainwire.training.model.models import plain_parameters
from trainwire.training.plugin import Plugin
from trainwire_protocol.errors import OptionError

if TYPE_CHECKING:
    from trainwire.training.run import TrainingRun


class _Selection(NamedTuple):
    """The selected weights of a parameter."""

    name: str
    indices: Tensor
    """Flat indices, on the parameter's device."""
    labels: list[str]
    """The indices as `row,column`."""


class WeightExtraction(Plugin):
    """Publishes `weights/<parameter>`, a map of index to value, every `every` steps.

    The sink `weights-file` writes them to weights.txt. The weights are evenly spaced in each parameter, so that a
    resumed run continues with the same ones. They are read asynchronously: the GPU is synchronized only for a
    checkpoint and at the end.

    Args:
        every: The number of steps between extractions.
        count: The maximum number of weights of each parameter.
        parameters: Shell patterns of the names of the parameters, such as `encoder.*`.

    Raises:
        OptionError: if `every` or `count` is below 1, or, when a training begins, no name matches a pattern.
    """

    essential = False

    def __init__(self, every: int = 100, count: int = 10, parameters: Sequence[str] = ("*",)) -> None:
        if every < 1 or count < 1:
            raise OptionError(f"WeightExtraction: every is {every} and count is {count}; they must be at least 1")
        self.every = every
        self.count = count
        self.parameters = (parameters,) if isinstance(parameters, str) else tuple(parameters)
        self._selections: list[_Selection] = []
        self._readings: GpuReadings[int] = GpuReadings()

    def attach(self, run: TrainingRun) -> None:
        """Select the weights."""
        self._readings = GpuReadings()
        self._selections = list(self._select(run.model))
        if not self._selections:
            names = ", ".join(name for name, _ in plain_parameters(run.model))
            raise OptionError(f"WeightExtraction: no parameter matches {self.parameters}; the parameters are {names}")
        super().attach(run)

    @hook
    def after_training_batch(self, batch: AfterTrainingBatch) -> None:
        """Copy the weights if it is time, and publish those that have arrived."""
        if batch.step % self.every == 0:
            parameters = dict(plain_parameters(self.run.model))
            parts = [torch.take(whole(parameters[name].detach()), indices) for name, indices, _ in self._selections]
            self._readings.add(batch.step, torch.cat(parts))
        self._publish(self._readings.take())

    @hook
    def training_finally(self, ending: TrainingFinally) -> None:
        """Publish the remaining weights. Synchronizes with the GPU."""
        self._publish(self._readings.take_all())
        self._selections = []

    def state_dict(self) -> dict[str, Any]:
        """Publish the remaining weights, and return an empty state. Synchronizes with the GPU."""
        self._publish(self._readings.take_all())
        return {}

    def _select(self, model: nn.Module) -> Iterator[_Selection]:
        for name, parameter in plain_parameters(model):
            size = parameter.numel()
            if size and any(fnmatchcase(name, pattern) for pattern in self.parameters):
                count = min(self.count, size)
                indices = [number * size // count for number in range(count)]
                labels = [_label(index, parameter.shape) for index in indices]
                yield _Selection(name, torch.tensor(indices, device=parameter.device), labels)

    def _publish(self, readings: Iterable[tuple[int, Sequence[float]]]) -> None:
        bus, now = self.run.bus, self.run.state.step
        for step, numbers in readings:
            values = iter(numbers)
            for name, _, labels in self._selections:
                bus.scalars(f"weights/{name}", {label: next(values) for label in labels}, step)
            bus.log({}, now)  # restores the current step for events without one


def _label(flat_index: int, shape: Sequence[int]) -> str:
    """Return a flat index as one index for each dimension, such as `0,3`; empty for a parameter without dimensions."""
    indices: list[str] = []
    for size in reversed(shape):
        flat_index, index = divmod(flat_index, size)
        indices.insert(0, str(index))
    return ",".join(indices)
