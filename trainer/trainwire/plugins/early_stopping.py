"""Stops the training when the model stops improving."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from trainwire.training.hooks.hooks import hook
from trainwire.training.hooks.payloads import AfterSetup, Scored
from trainwire.training.metrics import BestSoFar, checked_min_delta
from trainwire.training.plugin import Plugin
from trainwire_protocol.errors import OptionError


class EarlyStopping(Plugin):
    """Stops the training when the main metric has not improved for more than `patience` epochs.

    With `evaluate_each_k_steps`, evaluations are counted instead of epochs.

    Args:
        patience: The number of epochs, or evaluations, without improvement that are tolerated.
        min_delta: By how much a score must be better than the best one to be an improvement. If it is above 0, the loss
            is not compared.

    Raises:
        OptionError: if `patience` or `min_delta` is out of range, or the training has no main metric.
    """

    compares_epochs = True

    def __init__(self, patience: int = 5, *, min_delta: float = 0.0) -> None:
        if patience < 0:
            raise OptionError(f"EarlyStopping: patience is {patience}; it must be at least 0")
        self.patience, self.min_delta = patience, checked_min_delta("EarlyStopping", min_delta)
        self._best = BestSoFar(self.min_delta)

    @hook
    def after_setup(self, setup: AfterSetup) -> None:
        """Reset the count."""
        if self.run.main_metric is None:
            raise OptionError("EarlyStopping: there is no main metric; pass dev= or main_evaluation_metric=")
        self._best = BestSoFar(self.min_delta)

    @hook("after_step_evaluation", "after_training_epoch")
    def count(self, evaluated: Scored) -> None:
        """Count the evaluations without improvement, and stop the training if there are too many."""
        main = self.run.main_metric
        if main is None or main.name not in evaluated.metrics or not evaluated.complete or evaluated.repeated:
            return
        if not self._best.update(main.rank(evaluated.metrics)) and self._best.bad_epochs > self.patience:
            bad = f"{self._best.bad_epochs} {self.run.compared}"
            self.run.control.stop(f"{main.name} has not improved for {bad}")

    def state_dict(self) -> dict[str, Any]:
        """Return the best rank, and the number of evaluations since."""
        return self._best.state_dict(self.run.main_metric)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self._best.load_state_dict(state, self.run.main_metric, self.run.state.history)
