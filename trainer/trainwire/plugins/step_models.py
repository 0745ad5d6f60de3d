"""Saves the model at regular steps."""

from __future__ import annotations

from trainwire.training.hooks.hooks import hook
from trainwire.training.hooks.payloads import AfterTrainingBatch
from trainwire.training.plugin import Plugin
from trainwire_protocol.errors import OptionError


class StepModels(Plugin):
    """Saves the model as `model-step-<n>.pt` after every `steps` updates, and never deletes it.

    Raises:
        OptionError: if `steps` is below 1.
    """

    after = ("EMA",)

    def __init__(self, steps: int) -> None:
        if steps < 1:
            raise OptionError(f"StepModels: steps is {steps}; it must be at least 1")
        self.steps = steps

    @hook
    def after_training_batch(self, batch: AfterTrainingBatch) -> None:
        """Save the model if the number of updates is a multiple of `steps`."""
        if batch.step % self.steps == 0:
            with self.run.saved_weights():
                self.run.save_model(f"model-step-{batch.step}.pt", "step")
