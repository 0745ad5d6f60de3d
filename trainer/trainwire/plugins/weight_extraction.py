"""Publishes how a few weights of each parameter move."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

from trainwire.bus.gpu import GpuReadings
from trainwire.training.hooks.hooks import hook
from trainwire.training.hooks.payloads import AfterTrainingBatch, TrainingFinally
from trainwire.training.plugin import Plugin
from trainwire_protocol.errors import OptionError

if TYPE_CHECKING:
    from trainwire.training.run import TrainingRun


class _Chosen(NamedTuple):
    name: str
    places: Tensor
    """Flat indices, on the parameter's device."""
    labels: list[str]
    """The same as `row,column`."""


class WeightExtraction(Plugin):
    """Publishes `weights/<parameter>`, a map of index to value, every so many steps.

    The sink `weights-file` writes weights.txt from it. The weights are spread evenly over each parameter, so a resumed
    run goes on with the same ones. Values are read once they have arrived: a GPU is waited for only at the end, and for
    a checkpoint.

    Args:
        every: Steps from one extraction to the next.
        count: Weights of each parameter, at most.
        parameters: Patterns of the names of the parameters, as in a shell: `encoder.*`.

    Raises:
        OptionError: `every` or `count` is below 1, or no parameter has such a name.
    """

    essential = False

    def __init__(self, every: int = 100, count: int = 10, parameters: Sequence[str] = ("*",)) -> None:
        if every < 1 or count < 1:
            raise OptionError(f"WeightExtraction: every is {every} and count is {count}: they have to be at least 1")
        self.every = every
        self.count = count
        self.parameters = (parameters,) if isinstance(parameters, str) else tuple(parameters)
        self._chosen: list[_Chosen] = []
        self._readings: GpuReadings[int] = GpuReadings()

    def attach(self, run: TrainingRun) -> None:
        """Choose the weights, and take part."""
        self._readings = GpuReadings()
        self._chosen = list(self._choose(run.model))
        if not self._chosen:
            names = ", ".join(name for name, _ in run.model.named_parameters())
            raise OptionError(f"WeightExtraction: no parameter is like {self.parameters}; there are {names}")
        super().attach(run)

    @hook
    def after_training_batch(self, batch: AfterTrainingBatch) -> None:
        """Copy the weights now and then, and publish what has arrived."""
        if batch.step % self.every == 0:
            model = self.run.model
            parts = [torch.take(model.get_parameter(name).detach(), places) for name, places, _ in self._chosen]
            self._readings.add(batch.step, torch.cat(parts))
        self._publish(self._readings.take())

    @hook
    def training_finally(self, ending: TrainingFinally) -> None:  # noqa: ARG002  # every hook has its payload
        """Publish the rest; a GPU is waited for here."""
        self._publish(self._readings.take_all())
        self._chosen = []

    def state_dict(self) -> dict[str, Any]:
        """Nothing, but what is under way is published, as a resumed run will not; a GPU is waited for here."""
        self._publish(self._readings.take_all())
        return {}

    def _choose(self, model: nn.Module) -> Iterator[_Chosen]:
        for name, parameter in model.named_parameters():
            size = parameter.numel()
            if size and any(fnmatchcase(name, pattern) for pattern in self.parameters):
                places = [place * size // min(self.count, size) for place in range(min(self.count, size))]
                labels = [_label(place, parameter.shape) for place in places]
                yield _Chosen(name, torch.tensor(places, device=parameter.device), labels)

    def _publish(self, readings: Iterable[tuple[int, Sequence[float]]]) -> None:
        bus, now = self.run.bus, self.run.state.step
        for step, numbers in readings:
            values = iter(numbers)
            for name, _, labels in self._chosen:
                bus.scalars(f"weights/{name}", {label: next(values) for label in labels}, step)
            bus.log({}, now)  # what is recorded without a step has the current one again


def _label(place: int, shape: Sequence[int]) -> str:
    """A flat index as one for each dimension: `0,3`; empty for a parameter without dimensions."""
    indices: list[str] = []
    for size in reversed(shape):
        place, index = divmod(place, size)
        indices.insert(0, str(index))
    return ",".join(indices)
