"""Stops a training that no longer gets better."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from trainwire.training.hooks.hooks import hook
from trainwire.training.hooks.payloads import AfterSetup, AfterTrainingEpoch
from trainwire.training.metrics import BestSoFar
from trainwire.training.plugin import Plugin
from trainwire_protocol.errors import OptionError


class EarlyStopping(Plugin):
    """Stops the training once the main metric has not got better for more than `patience` epochs.

    Args:
        patience: Epochs in a row that may be no better than the best one.

    Raises:
        OptionError: `patience` is below 0, or the training has no main metric.
    """

    def __init__(self, patience: int = 5) -> None:
        if patience < 0:
            raise OptionError(f"EarlyStopping: patience is {patience}: it has to be at least 0")
        self.patience = patience
        self._best = BestSoFar()

    @hook
    def after_setup(self, setup: AfterSetup) -> None:  # noqa: ARG002  # every hook has its payload
        """Begin anew."""
        if self.run.main_metric is None:
            raise OptionError("EarlyStopping has nothing to watch: give dev=, or main_evaluation_metric=")
        self._best = BestSoFar()

    @hook
    def after_training_epoch(self, epoch: AfterTrainingEpoch) -> None:
        """Count the epochs that are no better."""
        main = self.run.main_metric
        if main is None or main.name not in epoch.metrics:
            return
        if not self._best.take(main.rank(epoch.metrics)) and self._best.bad_epochs > self.patience:
            self.run.control.stop(f"{main.name} has not got better for {self._best.bad_epochs} epochs")

    def state_dict(self) -> dict[str, Any]:
        """The best rank so far, and the epochs since then."""
        return self._best.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on counting from there."""
        self._best.load_state_dict(state)
