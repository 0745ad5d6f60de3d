"""Maintains an exponential moving average of the weights."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import Tensor
from torch.optim.swa_utils import get_ema_multi_avg_fn

from trainwire.training.hooks.hooks import hook
from trainwire.training.hooks.payloads import (
    AfterSetup,
    AfterTrainingBatch,
    BeforeEvaluation,
    Payload,
    TrainingException,
    TrainingFinally,
)
from trainwire.training.plugin import Plugin
from trainwire_protocol.errors import OptionError


class EMA(Plugin):
    """Evaluates and saves an exponential moving average of the weights, while training continues with the weights.

    After each step, `average = decay * average + (1 - decay) * weights`, as in `torch.optim.swa_utils`. The initial
    average consists of the weights after the first step (Polyak and Juditsky 1992, "Acceleration of stochastic
    approximation by averaging"). Buffers, such as the statistics of a batch norm, are not averaged.

    The model holds the average from the start of an evaluation until the best model is saved or the next batch is
    trained. After the training, it keeps the average, unless the training failed. The GPU is never synchronized.

    Args:
        decay: The weight of the previous average in a step, at least 0 and below 1. 0.999 averages about 1,000 steps.
        warm_up: Use the smaller decay `min(decay, (1 + n) / (10 + n))` in the nth step, as TensorFlow's
            `ExponentialMovingAverage` does, so that the average of a short training does not contain the first weights.

    Raises:
        OptionError: if `decay` is out of range.
    """

    after = ("BestModel", "EpochModels")
    before = ("Scheduler",)

    def __init__(self, decay: float = 0.999, *, warm_up: bool = False) -> None:
        if not 0 <= decay < 1:
            raise OptionError(f"EMA: decay is {decay}; it must be at least 0 and below 1")
        self.decay = decay
        self.warm_up = warm_up
        self._updates = 0
        self._weights: list[Tensor] = []
        """The model's parameters, which share its memory."""
        self._others: list[Tensor] = []
        """The average, or the trained weights while the model holds the average."""
        self._is_applied = False

    @hook
    def after_setup(self, setup: AfterSetup) -> None:
        """Start with a copy of the weights."""
        self._weights = [
            parameter.detach()
            for parameter in self.run.modules.parameters()
            if parameter.is_floating_point() or parameter.is_complex()
        ]
        self._others = [weights.clone() for weights in self._weights]
        self._updates, self._is_applied = 0, False

    @hook("after_step_evaluation", "after_training_epoch", "before_training_batch")
    def restore(self, payload: Payload) -> None:
        """Put the trained weights back into the model, before a scheduler loads others or a batch is trained."""
        self._apply(False)

    @hook
    def after_training_batch(self, batch: AfterTrainingBatch) -> None:
        """Update the average."""
        # `AveragedModel.update_parameters` synchronizes with the GPU in each step, to read its counter.
        update = get_ema_multi_avg_fn(self._decay_now())  # type: ignore[no-untyped-call]  # torch leaves it unannotated
        update(self._others, self._weights, self._updates)
        self._updates += 1

    @hook
    def before_evaluation(self, evaluation: BeforeEvaluation) -> None:
        """Put the average into the model."""
        self._apply(True)

    @contextmanager
    def saved_weights(self) -> Iterator[None]:
        """Let the model hold the average within this context, in which it is saved."""
        was_applied = self._is_applied
        self._apply(True)
        try:
            yield
        finally:
            self._apply(was_applied)

    @hook("after_training_loop", "training_interrupt")
    def keep_average(self, ending: Payload) -> None:
        """Put the average into the model, which is then saved as the final model."""
        self._apply(True)

    @hook
    def training_exception(self, failure: TrainingException) -> None:
        """Put the trained weights back into the model."""
        self._apply(False)

    @hook
    def training_finally(self, ending: TrainingFinally) -> None:
        """Release the weights."""
        self._weights, self._others = [], []

    def state_dict(self) -> dict[str, Any]:
        """Return the average, or the trained weights if the model holds the average."""
        others = [other.detach().clone() for other in self._others]
        return {"updates": self._updates, "is_applied": self._is_applied, "others": others}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` returned when the model's weights were saved.

        Raises:
            OptionError: if the state is that of a different model.
        """
        others = list(state["others"])
        if [other.shape for other in others] != [weights.shape for weights in self._weights]:
            raise OptionError("EMA: the averages in the checkpoint and the weights of the model have different shapes")
        for current, saved in zip(self._others, others, strict=True):
            current.copy_(saved)
        self._updates, self._is_applied = state["updates"], state["is_applied"]

    def _decay_now(self) -> float:
        if self._updates == 0:
            return 0.0
        return min(self.decay, (1 + self._updates) / (10 + self._updates)) if self.warm_up else self.decay

    def _apply(self, average: bool) -> None:
        """Swap the trained weights and the average, unless the model holds the requested ones already."""
        if average == self._is_applied:
            return
        for weights, other in zip(self._weights, self._others, strict=True):
            kept = weights.clone()
            weights.copy_(other)
            other.copy_(kept)
        self._is_applied = average
