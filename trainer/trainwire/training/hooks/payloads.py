"""The payloads that hooks are called with: one dataclass for each of the sixteen hooks.

A hook may assign one field of an `AssignablePayload`; all others are frozen. `docs/add-a-plugin.md` lists the hooks in
the order in which they occur. Tensors are passed on as they are. Reading one
with `.item()` synchronizes with the GPU, so plugins should do so rarely, or pass the tensor to `run.record`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import FrozenInstanceError, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Final, Literal, TypeAlias

from torch import Tensor

if TYPE_CHECKING:
    import torch

MetricValue: TypeAlias = "float | list[float]"
"""The value of a metric: a number, or a list with one number for each class or parameter group."""

Status: TypeAlias = Literal["finished", "failed", "interrupted"]


class EpochMetrics(dict[str, MetricValue]):
    """The metrics of an epoch, or of an evaluation within one, by name.

    An epoch that was cut short is not evaluated. Reading `metrics["dev/accuracy"]` then returns NaN, which compares as
    false with every number, so that a hook need not distinguish this case. The names themselves are absent: `in`,
    `get` and iteration see only what was measured.

    Args:
        metrics: The metrics that were measured.
        splits: The splits that are evaluated after each complete epoch.
        epoch: The number of the epoch.
        step: The updates that were made before.
        ends_epoch: Whether they are those of the whole epoch.
    """

    def __init__(
        self,
        metrics: Mapping[str, MetricValue],
        splits: Iterable[str],
        *,
        epoch: int = 0,
        step: int = 0,
        ends_epoch: bool = True,
    ) -> None:
        super().__init__(metrics)
        self._splits = frozenset(splits)
        self.epoch, self.step, self.ends_epoch = epoch, step, ends_epoch

    def __missing__(self, name: str) -> MetricValue:
        split = name.partition("/")[0]
        if split in self._splits and not any(measured.startswith(f"{split}/") for measured in self):
            return math.nan
        raise KeyError(f"{name}: the metrics of this epoch are {', '.join(sorted(self))}")


@dataclass(frozen=True, slots=True)
class Result:
    """The outcome of a training, as `ModelTrainer.train` returns it."""

    status: Status
    """"finished", even if a plugin stopped the training; "interrupted" if a signal did."""
    reason: str
    """Why the training ended."""
    folder: Path
    """The run's folder."""
    epochs: int
    """Epochs started."""
    steps: int
    """Optimizer updates made."""
    best_epoch: int | None
    """The epoch with the best main metric, counted from 1; None without a main metric."""
    best_step: int | None
    """The updates that were made before that evaluation: the end of that epoch, or one within it."""
    best_score: float | None
    """The main metric then."""
    test_score: float | None
    """The main metric on the test split, at the end; None if the test split was not evaluated."""
    test_metrics: Mapping[str, MetricValue]
    """All metrics of the test split, at the end; empty if it was not evaluated."""
    history: tuple[EpochMetrics, ...]
    """The metrics of each epoch and, with `evaluate_each_k_steps`, of each evaluation within one, in order. They have
    the attributes `epoch`, `step` and `ends_epoch`."""


class Payload:
    """Base class of the payloads."""

    __slots__ = ()


class AssignablePayload(Payload):
    """Base class of the payloads one of whose fields a hook may assign, to change what the training continues with."""

    __slots__ = ()

    assignable: ClassVar[str]
    """The name of the field."""

    def __setattr__(self, name: str, value: object) -> None:
        if name != self.assignable and hasattr(self, name):
            raise FrozenInstanceError(f"{name!r} cannot be assigned, only {self.assignable!r}")
        object.__setattr__(self, name, value)

    def problem(self) -> str | None:
        """Return what is wrong with the value that a hook has assigned; None if nothing is."""
        raise NotImplementedError


@dataclass(frozen=True, slots=True)
class AfterSetup(Payload):
    """The training is set up, and no batch has been read yet."""

    device: torch.device
    parameters: int
    """Trainable parameters of the model."""
    split_sizes: Mapping[str, int | None]
    """Samples in each split; None if the size of a split is unknown."""


@dataclass(frozen=True, slots=True)
class BeforeTrainingEpoch(Payload):
    """An epoch starts."""

    epoch: int
    """Counts from 1."""
    max_epochs: int | None
    """None if the number of epochs is unknown, as with `max_steps` alone and a loader without a length."""
    batches: int | None
    """Batches in this epoch; None if the number is unknown."""


@dataclass(slots=True)
class BeforeTrainingBatch(AssignablePayload):
    """A batch was read and is on the device; `run.control.skip_batch()` skips it."""

    assignable: ClassVar[str] = "batch"

    epoch: int
    number: int
    """The batch's number within the epoch, counted from 1."""
    batches: int | None
    batch: Any
    """May be assigned: the training continues with the new batch, which must be on the device."""

    def problem(self) -> str | None:
        """Return what is wrong with the new batch, if it is None, as from a function that returns nothing."""
        return "None to batch: assign a batch" if self.batch is None else None


@dataclass(slots=True)
class AfterTrainingForward(AssignablePayload):
    """A batch, or a chunk of one, was passed through the model, and its gradients are not computed yet."""

    assignable: ClassVar[str] = "loss"

    epoch: int
    number: int
    """The number of the batch, as in `before_training_batch`; that of the whole batch if this is a chunk."""
    step: int
    """The number of the update that follows."""
    batch: Any
    """The batch, or the chunk of `mini_batch_chunk_size` samples."""
    forward: Any
    """What `ModelTrainer.forward_for` returned: a `Forward`."""
    loss: Tensor
    """The mean loss of the batch, whose gradients are computed next. May be assigned: the new loss is weighted as the
    former one, and recorded."""
    optimizer: str = ""
    """The name of the optimizer that the loss is for; empty if the training has only one."""

    def problem(self) -> str | None:
        """Return what is wrong with the new loss, if it is not a tensor without dimensions that has a gradient."""
        value: object = self.loss
        if not isinstance(value, Tensor):
            what = f"a {type(value).__name__}"
        elif value.dim() != 0:
            what = f"a tensor of shape {tuple(value.shape)}"
        elif self.forward.loss.requires_grad and not value.requires_grad:
            what = "a tensor without a gradient"
        else:
            return None
        return f"{what} to loss; it must be the batch's mean, a tensor without dimensions that depends on the model"


@dataclass(frozen=True, slots=True)
class BeforeTrainingOptimizerStep(Payload):
    """Gradients are computed and clipped, and the optimizer has not used them yet; called for each optimizer."""

    epoch: int
    number: int
    """The number of the last batch of the update within the epoch."""
    step: int
    """The number of the update that follows."""
    loss: Tensor
    gradient_norm: Tensor
    """Total 2-norm of the optimizer's gradients before clipping."""
    optimizer: str = ""
    """The name of the optimizer; empty if the training has only one."""


@dataclass(frozen=True, slots=True)
class AfterTrainingBatch(Payload):
    """Each optimizer has made an update."""

    epoch: int
    number: int
    """The number of the batch within the epoch; with `accumulate_batches`, of the last one of the update."""
    batches: int | None
    step: int
    """Updates made so far, including this one."""
    samples: int
    """Samples in the batches of the update."""
    loss: Tensor
    """The batch's loss, detached; the sum over the optimizers if there are several."""
    gradient_norm: Tensor
    """Total 2-norm of the gradients of all optimizers."""


@dataclass(frozen=True, slots=True)
class AfterTrainingEpoch(Payload):
    """An epoch was trained and evaluated; plugins make their decisions about it here."""

    epoch: int
    max_epochs: int | None
    complete: bool
    """Whether the epoch counts: False if a stop, a signal or an error cut it short. One that a plugin ended with
    `control.end_epoch()`, or that reached `max_steps`, is complete."""
    seconds: float
    metrics: EpochMetrics
    """Every metric of the epoch, including those that plugins record in this hook. Those of a split that was not
    evaluated, because the epoch was cut short, are NaN."""
    repeated: bool = False
    """Whether the scores are those of `after_step_evaluation` at the last step, on which plugins have decided then."""


@dataclass(frozen=True, slots=True)
class BeforeEvaluation(Payload):
    """The evaluation of a split starts."""

    split: str
    epoch: int


@dataclass(frozen=True, slots=True)
class AfterEvaluation(Payload):
    """A split was evaluated."""

    split: str
    epoch: int
    metrics: Mapping[str, MetricValue]
    """The names start with the split: `dev/loss`."""
    seconds: float


@dataclass(frozen=True, slots=True)
class AfterStepEvaluation(Payload):
    """All splits were evaluated within an epoch, as `evaluate_each_k_steps` requests; plugins decide on the scores.

    An evaluation at the end of an epoch belongs to that: `after_training_epoch` is called instead.
    """

    epoch: int
    number: int
    """Batches read in this epoch."""
    step: int
    """Updates made so far."""
    seconds: float
    """Since the start of the epoch."""
    metrics: EpochMetrics
    """The scores of all splits, and the mean training loss of the epoch so far."""

    complete: ClassVar[bool] = True
    repeated: ClassVar[bool] = False


Scored: TypeAlias = AfterTrainingEpoch | AfterStepEvaluation
"""What plugins that compare scores are told: an epoch was evaluated at its end, or at a step within it."""


@dataclass(frozen=True, slots=True)
class AfterTrainingLoop(Payload):
    """The last epoch is over: all epochs were trained, or a plugin stopped the training."""

    reason: str
    epochs: int
    steps: int


@dataclass(frozen=True, slots=True)
class TrainingInterrupt(Payload):
    """The training was interrupted by Ctrl-C or SIGTERM."""

    reason: str


@dataclass(frozen=True, slots=True)
class TrainingException(Payload):
    """The training failed; the error is raised again after all plugins were called."""

    error: BaseException


@dataclass(frozen=True, slots=True)
class TrainingFinally(Payload):
    """The training is over, whether it finished, failed or was interrupted."""

    status: Status
    reason: str


@dataclass(frozen=True, slots=True)
class AfterTraining(Payload):
    """The training ended without an error."""

    result: Result


@dataclass(frozen=True, slots=True)
class MetricRecorded(Payload):
    """The trainer or a plugin recorded a metric."""

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
    "after_training_forward": AfterTrainingForward,
    "before_training_optimizer_step": BeforeTrainingOptimizerStep,
    "after_training_batch": AfterTrainingBatch,
    "after_training_epoch": AfterTrainingEpoch,
    "before_evaluation": BeforeEvaluation,
    "after_evaluation": AfterEvaluation,
    "after_step_evaluation": AfterStepEvaluation,
    "after_training_loop": AfterTrainingLoop,
    "training_interrupt": TrainingInterrupt,
    "training_exception": TrainingException,
    "training_finally": TrainingFinally,
    "after_training": AfterTraining,
    "metric_recorded": MetricRecorded,
}
"""The payload class of each hook, by the hook's name."""

TEARDOWN_HOOKS: Final = (AfterTrainingLoop, TrainingInterrupt, TrainingException, TrainingFinally, AfterTraining)
"""Hooks that call the plugins in reverse order, so that what was set up first is torn down last."""
