"""The exponential moving average of the weights."""

from __future__ import annotations

from collections.abc import Mapping
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
    """Evaluates and saves the model with a moving average of its weights, and trains on with the weights themselves.

    After each step, `average = decay * average + (1 - decay) * weights`, as in `torch.optim.swa_utils`; the average
    begins as the weights after the first step (Polyak and Juditsky 1992, "Acceleration of stochastic approximation by
    averaging"). Buffers, such as the statistics of a batch norm, stay the model's own.

    The model holds the average from an evaluation until the best model is saved or the next batch is trained, and at
    the end for good, unless that is an error. Nothing here waits for a GPU.

    Args:
        decay: How much of the average stays in a step, from 0 to below 1: 0.999 averages about 1,000 steps.
        warm_up: Begin with a smaller decay, `min(decay, (1 + n) / (10 + n))` in the nth step, as
            TensorFlow's `ExponentialMovingAverage` does: for short trainings, whose first weights are to be forgotten.

    Raises:
        OptionError: `decay` is out of its range.
    """

    after = ("BestModel", "EpochModels")
    before = ("Scheduler",)

    def __init__(self, decay: float = 0.999, *, warm_up: bool = False) -> None:
        if not 0 <= decay < 1:
            raise OptionError(f"EMA: decay is {decay}: it has to be at least 0 and below 1")
        self.decay = decay
        self.warm_up = warm_up
        self._updates = 0
        self._weights: list[Tensor] = []
        """The model's own, which see every change of it."""
        self._others: list[Tensor] = []
        self._is_applied = False

    @hook
    def after_setup(self, setup: AfterSetup) -> None:  # noqa: ARG002  # every hook has its payload
        """Begin anew."""
        self._weights = [parameter.detach() for parameter in self.run.model.parameters() if _is_averaged(parameter)]
        self._others = [weights.clone() for weights in self._weights]
        self._updates, self._is_applied = 0, False

    @hook("after_training_epoch", "before_training_batch")
    def restore(self, payload: Payload) -> None:  # noqa: ARG002  # every hook has its payload
        """Train with the weights themselves, or those that a scheduler may now go back to."""
        self._apply(False)

    @hook
    def after_training_batch(self, batch: AfterTrainingBatch) -> None:  # noqa: ARG002  # every hook has its payload
        """Move the average towards the weights."""
        # `AveragedModel.update_parameters` reads its counter, or copies it to the GPU, and so waits in each step.
        update = get_ema_multi_avg_fn(self._decay_now())  # type: ignore[no-untyped-call]  # torch leaves it unannotated
        update(self._others, self._weights, self._updates)
        self._updates += 1

    @hook
    def before_evaluation(self, evaluation: BeforeEvaluation) -> None:  # noqa: ARG002  # every hook has its payload
        """Evaluate with the average."""
        self._apply(True)

    @hook("after_training_loop", "training_interrupt")
    def keep_average(self, ending: Payload) -> None:  # noqa: ARG002  # every hook has its payload
        """Let the final model be the average; what evaluates it later, or loads the best one, finds it so."""
        self._apply(True)

    @hook
    def training_exception(self, failure: TrainingException) -> None:  # noqa: ARG002  # every hook has its payload
        """Leave the weights as they were trained."""
        self._apply(False)

    @hook
    def training_finally(self, ending: TrainingFinally) -> None:  # noqa: ARG002  # every hook has its payload
        """Forget the model."""
        self._weights, self._others = [], []

    def state_dict(self) -> dict[str, Any]:
        """The average, or, while the model holds that, the weights themselves."""
        others = [other.detach().clone() for other in self._others]
        return {"updates": self._updates, "is_applied": self._is_applied, "others": others}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up what `state_dict` has told of a model whose weights were saved at the same time.

        Raises:
            OptionError: it is that of another model.
        """
        others = list(state["others"])
        if [other.shape for other in others] != [weights.shape for weights in self._weights]:
            raise OptionError("EMA: the checkpoint's averages have other shapes than this model's weights")
        for mine, other in zip(self._others, others, strict=True):
            mine.copy_(other)
        self._updates, self._is_applied = state["updates"], state["is_applied"]

    def _decay_now(self) -> float:
        if self._updates == 0:
            return 0.0
        return min(self.decay, (1 + self._updates) / (10 + self._updates)) if self.warm_up else self.decay

    def _apply(self, wanted: bool) -> None:
        """Exchange the model's weights for the others, unless they are in place."""
        if wanted == self._is_applied:
            return
        for weights, other in zip(self._weights, self._others, strict=True):
            kept = weights.clone()
            weights.copy_(other)
            other.copy_(kept)
        self._is_applied = wanted


def _is_averaged(parameter: Tensor) -> bool:
    return parameter.is_floating_point() or parameter.is_complex()
