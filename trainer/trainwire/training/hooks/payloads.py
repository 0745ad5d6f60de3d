"""What a hook is told: one frozen record for each of the fourteen hooks.

`docs/add-a-plugin.md` says in which order they occur. Tensors are handed on as they are: reading one with `.item()`
makes a GPU wait, so a plugin reads them rarely or passes them on to `run.record`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from trainwire.training.result import Result

MetricValue: TypeAlias = "float | list[float]"
"""A metric that was read: a number, or one number for each class or parameter group."""

Status: TypeAlias = Literal["finished", "failed", "interrupted"]


@dataclass(frozen=True, slots=True)
class Payload:
    """Base of what hooks are told."""


@dataclass(frozen=True, slots=True)
class AfterSetup(Payload):
    """Everything is in place, and no batch was read yet."""

    device: torch.device
    parameters: int
    """Trainable parameters of the model."""
    split_sizes: Mapping[str, int | None]
    """Samples in each split; None where a split does not say."""


@dataclass(frozen=True, slots=True)
class BeforeTrainingEpoch(Payload):
    """An epoch begins."""

    epoch: int
    """Counts from 1."""
    max_epochs: int
    batches: int | None
    """Batches in this epoch; None if the loader cannot say."""


@dataclass(frozen=True, slots=True)
class BeforeTrainingBatch(Payload):
    """A batch was read and is on the device; `run.control.skip_batch()` leaves it out."""

    epoch: int
    number: int
    """The batch's number within the epoch, from 1."""
    batches: int | None
    batch: Any


@dataclass(frozen=True, slots=True)
class BeforeTrainingOptimizerStep(Payload):
    """Gradients are computed and clipped, and the optimizer has not used them yet."""

    epoch: int
    number: int
    step: int
    """The number of the update that follows."""
    loss: Tensor
    gradient_norm: Tensor
    """Total 2-norm of all gradients before they were clipped."""


@dataclass(frozen=True, slots=True)
class AfterTrainingBatch(Payload):
    """The optimizer has made an update."""

    epoch: int
    number: int
    batches: int | None
    step: int
    """Updates made so far, this one included."""
    samples: int
    """Samples in this batch."""
    loss: Tensor
    """The batch's loss, detached."""
    gradient_norm: Tensor


@dataclass(frozen=True, slots=True)
class AfterTrainingEpoch(Payload):
    """An epoch's training and evaluation are over, and plugins decide on it."""

    epoch: int
    max_epochs: int
    complete: bool
    """False if the epoch was cut short."""
    seconds: float
    metrics: Mapping[str, MetricValue]
    """Every metric of the epoch, including those that plugins record in this hook."""


@dataclass(frozen=True, slots=True)
class BeforeEvaluation(Payload):
    """A split is about to be evaluated."""

    split: str
    epoch: int


@dataclass(frozen=True, slots=True)
class AfterEvaluation(Payload):
    """A split was evaluated."""

    split: str
    epoch: int
    metrics: Mapping[str, MetricValue]
    """Named with their split: `dev/loss`."""
    seconds: float


@dataclass(frozen=True, slots=True)
class AfterTrainingLoop(Payload):
    """The last epoch is over: all were trained, or a plugin stopped the training."""

    reason: str
    epochs: int
    steps: int


@dataclass(frozen=True, slots=True)
class TrainingInterrupt(Payload):
    """The training was interrupted: by Ctrl-C or SIGTERM."""

    reason: str


@dataclass(frozen=True, slots=True)
class TrainingException(Payload):
    """The training failed; the error is raised again once every plugin knows."""

    error: BaseException


@dataclass(frozen=True, slots=True)
class TrainingFinally(Payload):
    """The training is over, in whichever way."""

    status: Status
    reason: str


@dataclass(frozen=True, slots=True)
class AfterTraining(Payload):
    """The training ended without an error, and this is what came of it."""

    result: Result


@dataclass(frozen=True, slots=True)
class MetricRecorded(Payload):
    """A metric was recorded, by the trainer or by a plugin."""

    name: str
    value: float | Tensor | list[float]
    type: Literal["scalar", "scalars"]
    walltime: float
    """Seconds since the epoch."""
    step: int


HOOKS: Final[Mapping[str, type[Payload]]] = {
    "after_setup": AfterSetup,
    "before_training_epoch": BeforeTrainingEpoch,
    "before_training_batch": BeforeTrainingBatch,
    "before_training_optimizer_step": BeforeTrainingOptimizerStep,
    "after_training_batch": AfterTrainingBatch,
    "after_training_epoch": AfterTrainingEpoch,
    "before_evaluation": BeforeEvaluation,
    "after_evaluation": AfterEvaluation,
    "after_training_loop": AfterTrainingLoop,
    "training_interrupt": TrainingInterrupt,
    "training_exception": TrainingException,
    "training_finally": TrainingFinally,
    "after_training": AfterTraining,
    "metric_recorded": MetricRecorded,
}
"""The hooks by name, each with what it tells."""

TEARDOWN_HOOKS: Final = (AfterTrainingLoop, TrainingInterrupt, TrainingException, TrainingFinally, AfterTraining)
"""Hooks that run in reverse, so that what was set up first is torn down last."""
