"""Saves the best model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from trainwire.training.hooks.hooks import hook
from trainwire.training.hooks.payloads import AfterSetup, Scored
from trainwire.training.metrics import BestSoFar, checked_min_delta
from trainwire.training.model.models import BEST_MODEL
from trainwire.training.plugin import Plugin


class BestModel(Plugin):
    """Saves the model as `best-model.pt` after each evaluation with the best main metric so far, or with an equal one
    and a lower loss. Each epoch ends with an evaluation; `evaluate_each_k_steps` adds others.

    It updates `best_epoch`, `best_step`, `best_score`, `best_model` and `bad_epochs` in the run's state. Without a main
    metric, that is without a dev split, it does nothing.

    Args:
        min_delta: By how much a score must be better than the best one. If it is above 0, the loss is not compared.

    Raises:
        OptionError: if `min_delta` is out of range.
    """

    compares_epochs = True

    def __init__(self, *, min_delta: float = 0.0) -> None:
        self.min_delta = checked_min_delta("BestModel", min_delta)
        self._best = BestSoFar(self.min_delta)

    @hook
    def after_setup(self, setup: AfterSetup) -> None:
        """Reset the best score."""
        self._best = BestSoFar(self.min_delta)

    @hook("after_step_evaluation", "after_training_epoch")
    def compare(self, evaluated: Scored) -> None:
        """Compare the scores with the best ones, unless there are none."""
        state, main = self.run.state, self.run.main_metric
        if main is None or evaluated.repeated or (score := main.score(evaluated.metrics)) is None:
            return
        is_best = self._best.update(main.rank(evaluated.metrics))
        state.bad_epochs = self._best.bad_epochs
        if not is_best:
            return
        state.best_epoch, state.best_step, state.best_score = evaluated.epoch, state.step, score
        self.run.save_model(BEST_MODEL, "best", metric=main.name, score=score)
        state.best_model = BEST_MODEL

    def state_dict(self) -> dict[str, Any]:
        """Return the best rank, and the number of evaluations since."""
        return self._best.state_dict(self.run.main_metric)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` returned, if the best model is still the one that was saved then."""
        now = self.run.state
        if now.best_epoch is not None:
            best = [each for each in now.history if (each.epoch, each.step) == (now.best_epoch, now.best_step)]
            self._best.load_state_dict(state, self.run.main_metric, best)
