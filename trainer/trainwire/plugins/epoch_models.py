"""Saves the model at regular epochs."""

from __future__ import annotations

from trainwire.training.hooks.hooks import hook
from trainwire.training.hooks.payloads import AfterTrainingEpoch
from trainwire.training.plugin import Plugin
from trainwire_protocol.errors import OptionError


class EpochModels(Plugin):
    """Saves the model as `model-epoch-<n>.pt` after every `epochs` epochs, and never deletes it.

    Raises:
        OptionError: if `epochs` is below 1.
    """

    def __init__(self, epochs: int = 1) -> None:
        if epochs < 1:
            raise OptionError(f"EpochModels: epochs is {epochs}; it must be at least 1")
        self.epochs = epochs

    @hook
    def after_training_epoch(self, epoch: AfterTrainingEpoch) -> None:
        """Save the model if the epoch is complete and a multiple of `epochs`."""
        if epoch.complete and epoch.epoch % self.epochs == 0:
            self.run.save_model(f"model-epoch-{epoch.epoch}.pt", "epoch")
