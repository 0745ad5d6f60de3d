"""Lowers the learning rate when the model stops improving."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from trainwire.training.hooks.hooks import hook
from trainwire.training.hooks.payloads import AfterSetup, Scored
from trainwire.training.metrics import TRAINING_LOSS, BestSoFar, MainMetric, checked_min_delta, format_metric
from trainwire.training.model.optimizers import learning_rates
from trainwire.training.plugin import Scheduler
from trainwire_protocol.errors import OptionError

logger = logging.getLogger("trainwire")


class AnnealingOnPlateau(Scheduler):
    """Multiplies the learning rate by `factor` when the main metric has not improved for more than `patience` epochs.

    If two scores are equal, the one with the lower loss is better. Without a main metric, the training loss is used.
    With `evaluate_each_k_steps`, evaluations are counted instead of epochs.

    Args:
        factor: The factor, between 0 and 1.
        patience: The number of epochs, or evaluations, without improvement that are tolerated.
        initial_extra_patience: Added to `patience` until the learning rate is lowered for the first time.
        min_learning_rate: The training stops before every learning rate falls below this value. If the initial
            learning rate is lower already, a tenth of the initial one is used instead.
        back_to_best: Load the best model's weights each time the learning rate is lowered.
        min_delta: By how much a score must be better than the best one to be an improvement. If it is above 0, the loss
            is not compared.

    Raises:
        OptionError: if an argument is out of range.
    """

    after = ("BestModel",)
    compares_epochs = True

    def __init__(
        self,
        factor: float = 0.5,
        patience: int = 3,
        initial_extra_patience: int = 0,
        min_learning_rate: float = 1e-4,
        *,
        back_to_best: bool = False,
        min_delta: float = 0.0,
    ) -> None:
        if not 0 < factor < 1:
            raise OptionError(f"AnnealingOnPlateau: factor is {factor}; it must be between 0 and 1")
        if patience < 0 or initial_extra_patience < 0 or min_learning_rate < 0:
            raise OptionError(
                "AnnealingOnPlateau: patience, initial_extra_patience and min_learning_rate must be at least 0"
            )
        self.factor, self.patience, self.initial_extra_patience = factor, patience, initial_extra_patience
        self.min_learning_rate, self.back_to_best = min_learning_rate, back_to_best
        self.min_delta = checked_min_delta("AnnealingOnPlateau", min_delta)
        self._reset(min_learning_rate)

    def _reset(self, least: float) -> None:
        self._best = BestSoFar(self.min_delta)
        self._patience = self.patience + self.initial_extra_patience
        self._least = least

    @hook
    def after_setup(self, setup: AfterSetup) -> None:
        """Reset the count, and determine the lowest learning rate."""
        first = min(min(learning_rates(optimizer)) for optimizer in self.run.optimizers.values())
        self._reset(self.min_learning_rate if first >= self.min_learning_rate else first / 10)

    @hook("after_step_evaluation", "after_training_epoch")
    def compare(self, evaluated: Scored) -> None:
        """Compare the scores with the best ones, unless the epoch was cut short or not evaluated."""
        main = self._metric
        if main.name not in evaluated.metrics or not evaluated.complete or evaluated.repeated:
            return
        if not self._best.update(main.rank(evaluated.metrics)) and self._best.bad_epochs > self._patience:
            self._anneal(main.name)

    def describe(self) -> str:
        """Return when the rate is lowered, and when the training stops."""
        return (
            f"multiplied by {self.factor:g} when {self._metric.name} has not improved for more than {self._patience} "
            f"{self.run.compared}; the training stops when it would fall below {self._least:g}"
        )

    @property
    def _metric(self) -> MainMetric:
        return self.run.main_metric or TRAINING_LOSS

    def _anneal(self, metric: str) -> None:
        rates = {
            name: [rate * self.factor for rate in learning_rates(optimizer)]
            for name, optimizer in self.run.optimizers.items()
        }
        highest = max(max(each) for each in rates.values())
        reason = f"{metric} has not improved for {self._best.bad_epochs} {self.run.compared}"
        self._best.bad_epochs, self._patience = 0, self.patience
        if highest < self._least:
            self.run.control.stop(f"learning rate too small: it would be {format_metric(highest)}, because {reason}")
            return
        for name, each in rates.items():
            self.run.set_learning_rates(each, reason, name)
        logger.info("learning rate lowered to %s: %s", format_metric(highest), reason)
        if self.back_to_best and self.run.state.best_model is not None:
            self.run.processes.wait_for_all()  # the first one writes the file
            self.run.load_model(self.run.state.best_model)

    def state_dict(self) -> dict[str, Any]:
        """Return the best rank, the number of evaluations since, and the limits in use."""
        return {**self._best.state_dict(self._metric), "patience": self._patience, "least": self._least}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self._best.load_state_dict(state, self._metric, self.run.state.history)
        self._patience, self._least = state["patience"], state["least"]
