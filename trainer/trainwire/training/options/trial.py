"""The options of a trial run: a training of a few batches that tries everything out."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from trainwire.training.options.options import TrainingOptions

BATCHES: Final = 3
"""The number of batches of each split if `trial_run` is True."""

EPOCHS: Final = 2
"""The most epochs of a trial run."""


def trial_options(options: TrainingOptions) -> TrainingOptions:
    """Return the options of a trial run if `trial_run` requests one, otherwise the same options.

    In a trial run, `trial_run` is the number of batches. What options do every k epochs or steps is done in it too.
    """
    if not options.trial_run:
        return options
    batches = BATCHES if options.trial_run is True else options.trial_run
    in_epoch = min(batches, options.batches_per_epoch or batches)
    steps = -(-in_epoch // options.accumulate_batches)
    return replace(
        options,
        trial_run=batches,
        batches_per_epoch=in_epoch,
        max_epochs=min(EPOCHS, options.max_epochs or EPOCHS),
        evaluate_each_k_steps=min(1, options.evaluate_each_k_steps),
        save_model_each_k_steps=min(steps, options.save_model_each_k_steps),
        save_model_each_k_epochs=min(1, options.save_model_each_k_epochs),
    )
