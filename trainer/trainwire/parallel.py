"""Calling the model such that processes which train together share their gradients."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

from torch import nn
from torch.nn.parallel import DistributedDataParallel

if TYPE_CHECKING:
    from trainwire.step import Forward


class TrainingForward:
    """`ModelTrainer.forward` as the step calls it; with several processes, inside torch's DistributedDataParallel."""

    def __init__(self, model: nn.Module, forward: Callable[[Any], Forward], *, several: bool) -> None:
        self.alone = forward
        """Calls `forward` in this process alone."""
        self._forward: Callable[[Any], Forward] = forward
        self._parallel: DistributedDataParallel | None = None
        if several:
            # All of `forward` is inside, so that it may call the model as it likes.
            self._forward = self._parallel = DistributedDataParallel(_ForwardModule(model, forward))

    def __call__(self, batch: Any) -> Forward:
        """The loss of a batch, with what the metrics compare."""
        return self._forward(batch)

    def without_sharing(self) -> AbstractContextManager[Any]:
        """Where gradients are only added up, since more of the same update follow."""
        return self._parallel.no_sync() if self._parallel else nullcontext()


class _ForwardModule(nn.Module):
    """A trainer's `forward` as a module with the model's parameters."""

    def __init__(self, model: nn.Module, forward: Callable[[Any], Forward]) -> None:
        super().__init__()
        self.model = model
        self._forward = forward

    def forward(self, batch: Any) -> Forward:
        return self._forward(batch)
