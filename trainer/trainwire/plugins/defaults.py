"""In what `train` and `fine_tune` differ: the defaults of some options, and the schedule of the learning rate."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple

from torch.optim import AdamW

from trainwire.plugins.annealing import AnnealingOnPlateau
from trainwire.plugins.linear_schedule import LinearSchedule
from trainwire.training.hooks.plugin import Plugin
from trainwire.training.options import TrainingOptions


class Recipe(NamedTuple):
    """How to train if nothing else is said."""

    name: str
    """Of the trainer's method."""
    defaults: Mapping[str, Any]
    """Options that differ from those of `TrainingOptions`."""
    scheduler: Callable[[], Plugin]

    def options(self, given: Mapping[str, Any]) -> TrainingOptions:
        """The options: those given, and this recipe's.

        Raises:
            OptionError: there is no such option, or its value cannot be.
        """
        return TrainingOptions.from_keywords({**self.defaults, **given}, self.name)


TRAIN: Final = Recipe("train", {}, AnnealingOnPlateau)

FINE_TUNE: Final = Recipe(
    "fine_tune",
    {
        "learning_rate": 5e-5, "mini_batch_size": 4, "max_epochs": 10, "optimizer": AdamW,
        "use_final_model_for_eval": True,
    },
    LinearSchedule,
)  # fmt: skip
