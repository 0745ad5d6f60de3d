"""Keeps the best model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from trainwire.training.hooks.hooks import hook
from trainwire.training.hooks.payloads import AfterSetup, AfterTrainingEpoch
from trainwire.training.metrics import BestSoFar
from trainwire.training.models import BEST_MODEL
from trainwire.training.plugin import Plugin


class BestModel(Plugin):
    """Saves the model as `best-model.pt` after each epoch whose main metric is better than ever before, or as
    good with a lower loss.

    It keeps `best_epoch`, `best_score` and `bad_epochs` of the run's state, for all to see. Without a main metric,
    that is without a dev split, it does nothing.
    """

    def __init__(self) -> None:
        self._best = BestSoFar()

    @hook
    def after_setup(self, setup: AfterSetup) -> None:  # noqa: ARG002  # every hook has its payload
        """Begin anew."""
        self._best = BestSoFar()

    @hook
    def after_training_epoch(self, epoch: AfterTrainingEpoch) -> None:
        """Compare the epoch with the best one; one that was not evaluated counts neither way."""
        state, main = self.run.state, self.run.main_metric
        if main is None or main.name not in epoch.metrics:
            return
        is_best, score = self._best.take(main.rank(epoch.metrics)), epoch.metrics[main.name]
        state.bad_epochs = self._best.bad_epochs
        if not is_best or isinstance(score, list):
            return
        state.best_epoch, state.best_score = epoch.epoch, score
        self.run.save_model(BEST_MODEL, "best", metric=main.name, score=score)
        state.best_model = BEST_MODEL

    def state_dict(self) -> dict[str, Any]:
        """The best epoch's rank, and how long ago it was."""
        return self._best.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on comparing with that."""
        self._best.load_state_dict(state)
