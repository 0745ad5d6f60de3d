"""The forward pass: what it returns, and how the training step calls it in one process or in several."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from trainwire.training.failures import note_batch
from trainwire_protocol.errors import UsageError


class Forward(NamedTuple):
    """The result of a forward pass on a batch: see `ModelTrainer.forward`."""

    loss: Tensor
    """The mean loss of the batch's samples: a tensor without dimensions."""
    output: Any = None
    """The first argument of the metrics."""
    target: Any = None
    """The second argument of the metrics."""


def checked_forward(result: object) -> Forward:
    """Return the result of a `forward`, if it is valid.

    Raises:
        UsageError: if it is not a `Forward`, or its loss is not a tensor without dimensions.
    """
    if not isinstance(result, Forward):
        what = "a tuple" if isinstance(result, tuple) else f"a {type(result).__name__}"
        raise UsageError(f"forward returned {what}: return trainwire.Forward(loss, output, target)")
    loss: object = result.loss
    if not isinstance(loss, Tensor) or loss.dim() != 0:
        what = f"a tensor of shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else f"a {type(loss).__name__}"
        raise UsageError(f"the loss is {what}; it must be the batch's mean, a tensor without dimensions")
    return result


class TrainingForward:
    """`ModelTrainer.forward` as the training step calls it; in several processes, wrapped in DistributedDataParallel.

    Args:
        first: Called with the result of the first call.

    Attributes:
        alone: Calls `forward` in this process only, as an evaluation does.
    """

    def __init__(
        self, model: nn.Module, forward: Callable[[Any], Forward], first: Callable[[Forward], None] | None = None
    ) -> None:
        self.alone = forward
        self._model = model
        self._first = first
        self._parallel: DistributedDataParallel | None = None

    def distribute(self) -> None:
        """Give every process the first one's weights, and average the gradients from now on."""
        # The module contains all of `forward`, so that it may call the model in any way.
        self._parallel = DistributedDataParallel(_ForwardModule(self._model, self.alone))

    def __call__(self, batch: Any) -> Forward:
        """Return the loss of a batch, and the output and target for the metrics."""
        try:
            result = checked_forward(self._parallel(batch) if self._parallel else self.alone(batch))
        except Exception as error:
            note_batch(error, "train", batch)
            raise
        if self._first:
            first, self._first = self._first, None
            first(result)
        return result

    def without_averaging(self) -> AbstractContextManager[Any]:
        """Return a context in which gradients are accumulated in this process, and not averaged over all."""
        return self._parallel.no_sync() if self._parallel else nullcontext()


class _ForwardModule(nn.Module):
    """A trainer's `forward` as a module that has the model's parameters."""

    def __init__(self, model: nn.Module, forward: Callable[[Any], Forward]) -> None:
        super().__init__()
        self.model = model
        self._forward = forward

    def forward(self, batch: Any) -> Forward:
        return self._forward(batch)
