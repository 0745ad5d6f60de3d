"""Where a training stands."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from trainwire.training.distributed import Processes
from trainwire.training.hooks.payloads import MetricValue


class MeanLoss:
    """The mean loss of the samples seen, added up where the losses are, so that a GPU need not be waited for."""

    def __init__(self) -> None:
        self.samples = 0
        self.finite_only = False
        """Whether losses that are not finite do not count."""
        self._sum: Tensor | None = None
        self._uncounted: Tensor | int = 0

    def add(self, loss: Tensor, samples: int) -> None:
        """Add the mean loss of `samples` samples, a detached tensor with one element."""
        if self._sum is None:
            # Many small losses added up in single precision would lose digits; Apple's GPUs have no double.
            precision = torch.float32 if loss.device.type == "mps" else torch.float64
            self._sum = torch.zeros((), dtype=precision, device=loss.device)
        if self.finite_only:
            is_finite = loss.isfinite()
            self._uncounted = self._uncounted + samples * ~is_finite
            loss = loss.where(is_finite, 0.0)
        self._sum.add_(loss, alpha=samples)
        self.samples += samples

    def read(self) -> float | None:
        """The mean, or None if nothing was counted. A GPU is waited for here."""
        counted = self.samples - int(self._uncounted)
        return self._sum.item() / counted if self._sum is not None and counted else None

    def state_dict(self) -> dict[str, Any]:
        """What was added up."""
        return {"samples": self.samples, "sum": self._sum, "uncounted": int(self._uncounted)}

    def load_state_dict(self, state: Mapping[str, Any], device: torch.device) -> None:
        """Go on adding to that."""
        self.samples, self._uncounted = state["samples"], state["uncounted"]
        self._sum = None if state["sum"] is None else state["sum"].to(device)

    def read_of_all(self, processes: Processes, device: torch.device) -> float | None:
        """The mean over the samples of all processes, each of which has to ask."""
        if not processes.several:
            return self.read()
        added = torch.zeros((), device=device) if self._sum is None else self._sum
        total, samples = processes.add_up(
            torch.stack([added.double(), added.new_tensor(self.samples - int(self._uncounted)).double()])
        ).tolist()
        return total / samples if samples else None


@dataclass(slots=True)
class EpochState:
    """One epoch: made when it begins."""

    number: int = 0
    """Counts from 1; 0 before the first."""
    max_epochs: int = 0
    batches: int | None = None
    """Batches that it will have; None if the loader cannot say."""
    batch: int = 0
    """Batches read."""
    is_open: bool = False
    """Whether it was begun and is not over."""
    is_cut: bool = False
    """Whether a plugin or somebody else wanted it to end after the batch that was read last."""
    exhausted: bool = False
    """Whether the loader had no more."""
    loss: MeanLoss = field(default_factory=MeanLoss)
    metrics: dict[str, MetricValue] = field(default_factory=dict)
    """The metrics of the epoch as a whole, for its row in the loss file."""
    began: float = field(default_factory=time.monotonic)
    began_with: dict[str, Any] = field(default_factory=dict)
    """The random states before its first batch was read."""
    loader_state: dict[str, Any] | None = None
    """In a resumed epoch: the loader's own word on its place, if it had one."""

    @property
    def complete(self) -> bool:
        """Whether all its batches were read."""
        return self.exhausted or self.batch == self.batches

    @property
    def seconds(self) -> float:
        """How long it has lasted."""
        return time.monotonic() - self.began


@dataclass(slots=True)
class TrainingState:
    """Where a training stands: what the loop counts, and what plugins decide for all to see."""

    step: int = 0
    """Optimizer updates made."""
    epoch: EpochState = field(default_factory=EpochState)
    best_epoch: int | None = None
    """The epoch of the best model: kept by the best-model plugin."""
    best_score: float | None = None
    best_model: str | None = None
    """The file, in the run's folder, that holds the weights of that epoch."""
    bad_epochs: int = 0
    """Epochs since the best one."""
    history: list[dict[str, MetricValue]] = field(default_factory=list)
    """The metrics of each epoch that is over."""
