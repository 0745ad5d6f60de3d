"""Lowers the learning rate when the model no longer gets better."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from trainwire.training.hooks.hooks import hook
from trainwire.training.hooks.payloads import AfterSetup, AfterTrainingEpoch
from trainwire.training.metrics import BestSoFar, MainMetric
from trainwire.training.models import load_model
from trainwire.training.optimizers import learning_rates
from trainwire.training.plugin import Scheduler
from trainwire_protocol.errors import OptionError

logger = logging.getLogger("trainwire")


class AnnealingOnPlateau(Scheduler):
    """Multiplies the learning rate by `factor` once the main metric has not got better for more than `patience` epochs.

    Of equal scores the one with the lower loss is better. Without a main metric the training loss is watched.

    Args:
        factor: What the learning rate is multiplied by.
        patience: Epochs in a row that may be no better than the best one.
        initial_extra_patience: How many more that may be before the rate was lowered for the first time.
        min_learning_rate: The training stops once every learning rate is lower than this; where it begins below
            this already, than a tenth of that.
        back_to_best: Go on from the best model's weights each time the rate is lowered.

    Raises:
        OptionError: a number is out of its range.
    """

    after = ("BestModel",)

    def __init__(
        self,
        factor: float = 0.5,
        patience: int = 3,
        initial_extra_patience: int = 0,
        min_learning_rate: float = 1e-4,
        *,
        back_to_best: bool = False,
    ) -> None:
        if not 0 < factor < 1:
            raise OptionError(f"AnnealingOnPlateau: factor is {factor}: it has to lie between 0 and 1")
        if patience < 0 or initial_extra_patience < 0 or min_learning_rate < 0:
            raise OptionError("AnnealingOnPlateau: patience and the least learning rate have to be at least 0")
        self.factor, self.patience, self.initial_extra_patience = factor, patience, initial_extra_patience
        self.min_learning_rate, self.back_to_best = min_learning_rate, back_to_best
        self._begin(min_learning_rate)

    def _begin(self, least: float) -> None:
        self._best = BestSoFar()
        self._patience = self.patience + self.initial_extra_patience
        self._least = least

    @hook
    def after_setup(self, setup: AfterSetup) -> None:  # noqa: ARG002  # every hook has its payload
        """Begin anew."""
        first = min(learning_rates(self.run.optimizer))
        self._begin(self.min_learning_rate if first >= self.min_learning_rate else first / 10)

    @hook
    def after_training_epoch(self, epoch: AfterTrainingEpoch) -> None:
        """Compare the epoch with the best one; one that was not evaluated counts neither way."""
        main = self.run.main_metric or MainMetric("train/loss", higher_is_better=False)
        if main.name not in epoch.metrics or self.run.control.stopping:
            return
        if not self._best.take(main.rank(epoch.metrics)) and self._best.bad_epochs > self._patience:
            self._anneal(main.name)

    def _anneal(self, metric: str) -> None:
        rates = [rate * self.factor for rate in learning_rates(self.run.optimizer)]
        reason = f"{metric} has not got better for {self._best.bad_epochs} epochs"
        self._best.bad_epochs, self._patience = 0, self.patience
        if all(rate < self._least for rate in rates):
            self.run.control.stop(f"learning rate too small: it would be {max(rates):.4g}, as {reason}")
            return
        self.run.set_learning_rates(rates, reason)
        logger.info("learning rate lowered to %.4g: %s", max(rates), reason)
        if self.back_to_best and self.run.state.best_model is not None:
            self.run.processes.wait_for_all()  # one of them writes the file
            load_model(self.run.model, self.run.folder / self.run.state.best_model)

    def state_dict(self) -> dict[str, Any]:
        """The best epoch's rank, and how long ago it was."""
        return {**self._best.state_dict(), "patience": self._patience, "least": self._least}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on counting."""
        self._best.load_state_dict(state)
        self._patience, self._least = state["patience"], state["least"]
