"""The state of a training: counters, the current epoch, and the random number generators."""

from __future__ import annotations

import random
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import torch
from torch import Tensor

from trainwire.training.distributed.processes import Processes
from trainwire.training.hooks.payloads import EpochMetrics, MetricValue
from trainwire.training.model.losses import Weight


class MeanLoss:
    """The weighted mean of losses, accumulated on the losses' device, so that adding does not synchronize."""

    def __init__(self) -> None:
        self.finite_only = False
        """Whether to ignore losses that are not finite."""
        self._sum: Tensor | None = None
        self.weight: Weight = 0
        """The sum of the weights."""

    def add(self, loss: Tensor, weight: Weight) -> None:
        """Add a batch's mean loss, a detached tensor without dimensions, unless its weight is 0."""
        if self._sum is None:
            # A sum of many small losses in single precision would lose digits; Apple's GPUs have no double.
            precision = torch.float32 if loss.device.type == "mps" else torch.float64
            self._sum = torch.zeros((), dtype=precision, device=loss.device)
        if self.finite_only:
            weight = loss.isfinite() * weight
        if isinstance(weight, Tensor):
            weight = weight.to(self._sum)
            self._sum.add_(loss.where(weight != 0, 0.0) * weight)
        elif weight:
            self._sum.add_(loss, alpha=weight)
        self.weight = self.weight + weight

    def tensor(self) -> Tensor:
        """Return the mean of at least one loss as a tensor, without reading it; NaN if no loss has a weight."""
        assert self._sum is not None
        return self._sum / self.weight

    def read(self) -> float | None:
        """Return the mean, or None if there is no loss with a weight. Synchronizes with the GPU."""
        weight = float(self.weight)
        return self._sum.item() / weight if self._sum is not None and weight else None

    def read_of_all(self, processes: Processes, device: torch.device) -> float | None:
        """Return the mean over the batches of all processes, each of which must call this."""
        if not processes.several:
            return self.read()
        added = torch.zeros((), device=device) if self._sum is None else self._sum
        total, weight = processes.add_up(
            torch.stack([added.double(), added.new_tensor(float(self.weight)).double()])
        ).tolist()
        return total / weight if weight else None

    def state_dict(self) -> dict[str, Any]:
        """Return the sum and the weight."""
        return {"sum": self._sum, "weight": float(self.weight)}

    def load_state_dict(self, state: Mapping[str, Any], device: torch.device) -> None:
        """Restore the sum, on `device`, and the weight."""
        self.weight = state["weight"]
        self._sum = None if state["sum"] is None else state["sum"].to(device)


class LossParts:
    """The weighted means of the named parts of a loss, each over the batches that have it."""

    def __init__(self) -> None:
        self._means: dict[str, MeanLoss] = {}

    def add(self, parts: Mapping[str, Tensor], weight: Weight) -> None:
        """Add the parts of a batch's loss, weighted as the loss is: see `MeanLoss`."""
        for name, part in parts.items():
            self._means.setdefault(name, MeanLoss()).add(part, weight)

    def add_means(self, other: LossParts, *, finite_only: bool) -> None:
        """Add the means of a step.

        Args:
            finite_only: Whether to ignore those that are not finite.
        """
        for name, part in other._means.items():
            mean = self._means.setdefault(name, MeanLoss())
            mean.finite_only = finite_only
            mean.add(part.tensor(), part.weight)

    def tensors(self) -> dict[str, Tensor]:
        """Return the means as tensors, without reading them."""
        return {name: mean.tensor() for name, mean in self._means.items()}

    def read_of_all(self, processes: Processes, device: torch.device) -> dict[str, float]:
        """Return the means over the batches of all processes, each of which must call this. Synchronizes with the GPU.

        A part may be missing in some of the processes.
        """
        names = dict.fromkeys(name for own in processes.gather_objects(list(self._means)) for name in own)
        means = {name: self._means.get(name, MeanLoss()).read_of_all(processes, device) for name in names}
        return {name: mean for name, mean in means.items() if mean is not None}

    def state_dict(self) -> dict[str, Any]:
        """Return the sum and the weight of each mean."""
        return {name: mean.state_dict() for name, mean in self._means.items()}

    def load_state_dict(self, state: Mapping[str, Any], device: torch.device) -> None:
        """Restore the means, with their sums on `device`."""
        for name, saved in state.items():
            self._means.setdefault(name, MeanLoss()).load_state_dict(saved, device)


class EpochLoss:
    """The mean losses of an epoch: one for each optimizer, as each may have a loss of its own."""

    def __init__(self) -> None:
        self.finite_only = False
        """Whether to ignore losses that are not finite."""
        self._means: dict[str, MeanLoss] = {}

    def add(self, loss: Tensor, weight: Weight, optimizer: str = "") -> None:
        """Add the mean loss of an optimizer's update: see `MeanLoss`."""
        mean = self._means.setdefault(optimizer, MeanLoss())
        mean.finite_only = self.finite_only
        mean.add(loss, weight)

    def read(self) -> float | None:
        """Return the sum of the means, or None if there is no loss with a weight. Synchronizes with the GPU."""
        return _sum([mean.read() for mean in self._means.values()])

    def read_of_all(self, processes: Processes, device: torch.device, optimizers: Sequence[str]) -> dict[str, float]:
        """Return the means over the batches of all processes, each of which must call this.

        Args:
            optimizers: The names of all optimizers.

        Returns:
            `train/loss`, the sum of the means. With several optimizers also each mean, such as `train/loss/generator`.
        """
        means = {name: self._means.get(name, MeanLoss()).read_of_all(processes, device) for name in optimizers}
        total = _sum(list(means.values()))
        losses = {} if total is None else {"train/loss": total}
        several = means if len(means) > 1 else {}
        return losses | {f"train/loss/{name}": mean for name, mean in several.items() if mean is not None}

    def state_dict(self) -> dict[str, Any]:
        """Return the sum and the weight of each mean."""
        return {name: mean.state_dict() for name, mean in self._means.items()}

    def without_values(self) -> EpochLoss:
        """Return an empty one with the same setting."""
        empty = EpochLoss()
        empty.finite_only = self.finite_only
        return empty

    def merge(self, state: Mapping[str, Any], device: torch.device) -> None:
        """Add the losses of another process, as its `state_dict` describes them."""
        for name, saved in state.items():
            part = MeanLoss()
            part.load_state_dict(saved, device)
            if part.weight:
                self.add(part.tensor(), part.weight, name)

    def load_state_dict(self, state: Mapping[str, Any], device: torch.device) -> None:
        """Restore the means, with their sums on `device`."""
        for name, saved in state.items():
            self._means.setdefault(name, MeanLoss()).load_state_dict(saved, device)


def _sum(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) if known else None


@dataclass(slots=True)
class EpochState:
    """The state of one epoch."""

    number: int = 0
    """Counts from 1; 0 before the first epoch."""
    max_epochs: int | None = None
    """None if the number of epochs is unknown."""
    batches: int | None = None
    """Batches in this epoch; None if the number is unknown."""
    batch: int = 0
    """Batches read."""
    is_open: bool = False
    """Whether it has started and is not over."""
    is_cut: bool = False
    """Whether it was requested to end after the last batch read."""
    complete: bool = False
    """Whether it was trained to its end and evaluated, and counts: not if a stop, a signal or an error cut it short."""
    loss: EpochLoss = field(default_factory=EpochLoss)
    parts: LossParts = field(default_factory=LossParts)
    """The means of the named parts of the loss."""
    metrics: EpochMetrics = field(default_factory=lambda: EpochMetrics({}, ()))
    """The metrics of the whole epoch, for its row in the loss file."""
    scores: dict[str, MetricValue] = field(default_factory=dict)
    """The scores of an evaluation within the epoch that is not finished, because a signal cut it short."""
    started: float = field(default_factory=time.monotonic)

    @property
    def seconds(self) -> float:
        """How long it has lasted."""
        return time.monotonic() - self.started

    def state_dict(self) -> dict[str, Any]:
        """Return the fields that a checkpoint saves."""
        saved = {each.name for each in fields(self)} - {"started"}
        return {name: getattr(self, name) for name in saved} | {
            "seconds": self.seconds,
            "metrics": dict(self.metrics),
            "loss": self.loss.state_dict(),
            "parts": self.parts.state_dict(),
        }

    @classmethod
    def from_state_dict(cls, state: Mapping[str, Any], device: torch.device) -> EpochState:
        """Return the epoch that `state_dict` describes, with its loss on `device`."""
        values = dict(state)
        loss, parts = EpochLoss(), LossParts()
        loss.load_state_dict(values.pop("loss"), device)
        parts.load_state_dict(values.pop("parts"), device)
        return cls(loss=loss, parts=parts, started=time.monotonic() - values.pop("seconds"), **values)


@dataclass(slots=True)
class DataPosition:
    """How far the training data was read, in one pass over it.

    A pass is an epoch, unless `batches_per_epoch` is given: then an epoch continues where the one before it stopped.
    """

    number: int = 0
    """The number of the pass, which counts from 1; 0 before the first one."""
    batches: int = 0
    """Batches read in it."""
    is_divided_again: bool = False
    """Whether that number follows from that of a training with another number of processes: the pass may have one less,
    as the last batch of each of them may have been smaller."""
    exhausted: bool = False
    """Whether the loader had no more batches, in this process or in another one."""
    is_cut: bool = False
    """Whether only another process had no more batches, so that the loader of this one was not read to its end."""
    began_with: dict[str, Any] = field(default_factory=dict)
    """The random states before its first batch was read."""
    loader_state: dict[str, Any] | None = None
    """In a checkpoint: the `state_dict` of the loader or of a stream, if it has one."""
    is_resumed: bool = False
    """Whether it is that of a checkpoint, and nothing was read since."""
    resumed_random: Mapping[str, Any] | None = None
    """In a resumed epoch, until its first batch is read: the random states to continue with."""

    def state_dict(self) -> dict[str, Any]:
        """Return the fields that a checkpoint saves."""
        saved = {each.name for each in fields(self)} - {"is_resumed", "resumed_random"}
        return {name: getattr(self, name) for name in saved}


@dataclass(slots=True)
class TrainingState:
    """The state of a training: what the loop counts, and what plugins decide for others to read."""

    step: int = 0
    """Optimizer updates made."""
    epoch: EpochState = field(default_factory=EpochState)
    position: DataPosition = field(default_factory=DataPosition)
    best_epoch: int | None = None
    """The epoch of the best model; set by the best-model plugin."""
    best_step: int | None = None
    """The updates that were made before the evaluation of that model."""
    best_score: float | None = None
    best_model: str | None = None
    """The file, in the run's folder, that holds the weights of that epoch."""
    bad_epochs: int = 0
    """Evaluations since the best one, of which each epoch's end is one."""
    evaluated_step: int | None = None
    """The updates that were made before the last evaluation of all splits."""
    stopped: str | None = None
    """In a checkpoint of the end: why a plugin or a command ended the training before its last epoch."""
    history: list[EpochMetrics] = field(default_factory=list)
    """The metrics of each finished epoch, and of the evaluations within epochs."""

    def add_to_history(self, metrics: Mapping[str, MetricValue], *, ends_epoch: bool) -> None:
        """Add the metrics of an evaluation. Those of an epoch's end replace those of its last step."""
        added = EpochMetrics(metrics, (), epoch=self.epoch.number, step=self.step, ends_epoch=ends_epoch)
        if self.is_evaluated_within_epoch and self.epoch.complete:
            self.history.pop()
        self.history.append(added)

    @property
    def is_evaluated_within_epoch(self) -> bool:
        """Whether no update was made since the last evaluation within the epoch."""
        last = self.history[-1] if self.history else None
        return last is not None and not last.ends_epoch and (last.epoch, last.step) == (self.epoch.number, self.step)

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint saves."""
        history = [
            {"metrics": dict(each), "epoch": each.epoch, "step": each.step, "ends_epoch": each.ends_epoch}
            for each in self.history
        ]
        parts = {"epoch": self.epoch.state_dict(), "position": self.position.state_dict(), "history": history}
        return {each.name: getattr(self, each.name) for each in fields(self)} | parts

    def load_state_dict(self, state: Mapping[str, Any], device: torch.device) -> None:
        """Restore what `state_dict` returned, with the epoch's loss on `device`."""
        values = dict(state)
        self.epoch = EpochState.from_state_dict(values.pop("epoch"), device)
        self.position = DataPosition(**values.pop("position"), is_resumed=True)
        self.history = [EpochMetrics(splits=(), **each) for each in values.pop("history")]
        for name, value in values.items():
            setattr(self, name, value)


def random_states(generators: Sequence[torch.Generator] = ()) -> dict[str, Any]:
    """Return the random states of Python, NumPy (if it is imported), torch, its GPUs, and the given generators."""
    version, numbers, gauss = random.getstate()
    states: dict[str, Any] = {"python": [version, list(numbers), gauss], "torch": torch.get_rng_state()}
    if "numpy" in sys.modules:
        kind, keys, *rest = sys.modules["numpy"].random.get_state()
        states["numpy"] = [kind, keys.tolist(), *rest]
    if torch.cuda.is_available():
        states["cuda"] = torch.cuda.get_rng_state_all()
    return states | {"generators": [generator.get_state() for generator in generators]}


def restore_random_states(states: Mapping[str, Any], generators: Sequence[torch.Generator] = ()) -> None:
    """Restore what `random_states` returned.

    A resumed training may have other evaluation splits, and so other generators. Those of the training data are the
    first ones.
    """
    version, numbers, gauss = states["python"]
    random.setstate((version, tuple(numbers), gauss))
    torch.set_rng_state(states["torch"])
    if "numpy" in states and "numpy" in sys.modules:
        sys.modules["numpy"].random.set_state(tuple(states["numpy"]))
    if "cuda" in states:
        torch.cuda.set_rng_state_all(states["cuda"])
    for generator, state in zip(generators, states["generators"], strict=False):
        generator.set_state(state)
