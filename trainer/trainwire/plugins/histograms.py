"""Records histograms of weights and gradients."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase

from torch import nn

from trainwire.training.distributed.sharding import whole
from trainwire.training.hooks.hooks import hook
from trainwire.training.hooks.payloads import AfterTrainingBatch, BeforeTrainingOptimizerStep
from trainwire.training.model.models import plain_parameters
from trainwire.training.model.parameters import optimizer_parameters
from trainwire.training.plugin import Plugin
from trainwire_protocol.errors import OptionError


class Histograms(Plugin):
    """Records histograms of each parameter and of its gradient, every `every` steps.

    `parameters/<name>` contains the weights after the step, `gradients/<name>` the clipped gradients of the step. The
    tensors are bucketed on their device, without synchronizing with the GPU.

    Args:
        every: The number of steps between records.
        parameters: Shell patterns of the names of the parameters, such as `encoder.*`.
        gradients: Whether to record the gradients too.

    Raises:
        OptionError: if `every` is below 1.
    """

    essential = False

    def __init__(self, every: int = 100, parameters: Sequence[str] = ("*",), *, gradients: bool = True) -> None:
        if every < 1:
            raise OptionError(f"Histograms: every is {every}; it must be at least 1")
        self.every = every
        self.parameters = (parameters,) if isinstance(parameters, str) else tuple(parameters)
        self.gradients = gradients

    @hook
    def before_training_optimizer_step(self, step: BeforeTrainingOptimizerStep) -> None:
        """Record the gradients of the parameters that have one."""
        if self.gradients and step.step % self.every == 0:
            optimized = set(map(id, optimizer_parameters(self.run.optimizers[step.optimizer])))
            for name, parameter in self._parameters():
                if parameter.grad is not None and id(parameter) in optimized:
                    self.run.bus.histogram(f"gradients/{name}", whole(parameter.grad), step.step)

    @hook
    def after_training_batch(self, batch: AfterTrainingBatch) -> None:
        """Record the weights."""
        if batch.step % self.every == 0:
            for name, parameter in self._parameters():
                self.run.bus.histogram(f"parameters/{name}", whole(parameter.detach()), batch.step)

    def _parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        for name, parameter in plain_parameters(self.run.model):
            if any(fnmatchcase(name, pattern) for pattern in self.parameters):
                yield name, parameter
