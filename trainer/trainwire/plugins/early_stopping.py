"""Stops a training that no longer gets better."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from trainwire.hooks import hook
from trainwire.payloads import AfterSetup, AfterTrainingEpoch
from trainwire.plugin import Plugin
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
        self._best: tuple[float, float] | None = None
        self._bad_epochs = 0

    @hook
    def after_setup(self, setup: AfterSetup) -> None:  # noqa: ARG002  # every hook has its payload
        """Begin anew."""
        if self.run.main_metric is None:
            raise OptionError("EarlyStopping has nothing to watch: give dev=, or main_evaluation_metric=")
        self._best, self._bad_epochs = None, 0

    @hook
    def after_training_epoch(self, epoch: AfterTrainingEpoch) -> None:
        """Count the epochs that are no better."""
        main = self.run.main_metric
        if main is None or main.name not in epoch.metrics:
            return
        rank = main.rank(epoch.metrics)
        if rank is not None and (self._best is None or rank > self._best):
            self._best, self._bad_epochs = rank, 0
            return
        self._bad_epochs += 1
        if self._bad_epochs > self.patience:
            self.run.control.stop(f"{main.name} has not got better for {self._bad_epochs} epochs")

    def state_dict(self) -> dict[str, Any]:
        """The best rank so far, and the epochs since then."""
        return {"best": self._best and list(self._best), "bad_epochs": self._bad_epochs}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on counting from there."""
        best, self._bad_epochs = state["best"], state["bad_epochs"]
        self._best = None if best is None else (best[0], best[1])
