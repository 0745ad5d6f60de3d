"""Keeps the best model."""

from __future__ import annotations

from trainwire.hooks import hook
from trainwire.models import BEST_MODEL
from trainwire.payloads import AfterTrainingEpoch
from trainwire.plugin import Plugin
from trainwire_protocol.errors import UsageError


class BestModel(Plugin):
    """Saves the model as `best-model.pt` after each epoch whose main metric is better than ever before.

    It keeps `best_epoch`, `best_score` and `bad_epochs` of the run's state, for all to see. Without a main metric,
    that is without a dev split, it does nothing.
    """

    @hook
    def after_training_epoch(self, epoch: AfterTrainingEpoch) -> None:
        """Compare the epoch with the best one; one that was not evaluated counts neither way."""
        state, main = self.run.state, self.run.main_metric
        if main is None or main.name not in epoch.metrics:
            return
        score = epoch.metrics[main.name]
        if isinstance(score, list):
            raise UsageError(
                f"{main.name} is a list of {len(score)} numbers: models can only be compared by one number"
            )
        if main.is_better(score, state.best_score):
            state.best_epoch, state.best_score, state.bad_epochs = epoch.epoch, score, 0
            self.run.save_model(BEST_MODEL, "best", metric=main.name, score=score)
            state.best_model = BEST_MODEL
        else:
            state.bad_epochs += 1
