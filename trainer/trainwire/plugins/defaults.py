"""The defaults of `train` and `fine_tune`: the schedule of the learning rate, and the plugins."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

from trainwire.bus.notice import is_shown
from trainwire.plugins.annealing import AnnealingOnPlateau
from trainwire.plugins.best_model import BestModel
from trainwire.plugins.checkpoints import Checkpoints
from trainwire.plugins.epoch_models import EpochModels
from trainwire.plugins.linear_schedule import LinearSchedule
from trainwire.plugins.regular_logging import RegularLogging
from trainwire.plugins.step_models import StepModels
from trainwire.plugins.weight_extraction import WeightExtraction
from trainwire.training.hooks.base_plugin import in_order
from trainwire.training.options.options import TrainingOptions
from trainwire.training.plugin import Plugin, Scheduler
from trainwire_protocol.environment import LaunchEnvironment
from trainwire_protocol.errors import OptionError

CHECKPOINT_MINUTES: Final = 15.0
"""The time between two checkpoints, unless a plugin sets another one."""


class Recipe(NamedTuple):
    """What one of the trainer's methods does by default."""

    name: str
    """The method's name, of which `DEFAULTS` has the defaults of the options."""
    scheduler: Callable[[], Plugin]


TRAIN: Final = Recipe("train", AnnealingOnPlateau)

FINE_TUNE: Final = Recipe("fine_tune", LinearSchedule)


def with_default_plugins(plugins: Sequence[Plugin], options: TrainingOptions, recipe: Recipe) -> tuple[Plugin, ...]:
    """Return the plugins with the default ones around them, except those of a class that is attached already.

    The best model is determined before the other plugins are called, and the logging reports what they did.

    Raises:
        OptionError: if more than one plugin sets the learning rate, or the declared order of the plugins is a cycle.
    """
    schedulers = [plugin for plugin in plugins if isinstance(plugin, Scheduler)]
    owners = [scheduler.optimizer for scheduler in schedulers]
    if len(owners) > 1 and (None in owners or len(set(owners)) < len(owners)):
        names = " and ".join(type(scheduler).__name__ for scheduler in schedulers)
        raise OptionError(f"{names} each set the learning rate: attach only one of them, or one for each optimizer")
    first: list[Plugin] = [BestModel()] if options.default_plugins else []
    if options.attach_default_scheduler and not schedulers:
        first.append(recipe.scheduler())
    last: list[Plugin] = []
    if options.write_weights:
        last.append(WeightExtraction())
    if options.save_model_each_k_epochs:
        last.append(EpochModels(options.save_model_each_k_epochs))
    if options.save_model_each_k_steps:
        last.append(StepModels(options.save_model_each_k_steps))
    if options.default_plugins and is_shown(LaunchEnvironment.read().rank, quiet=options.quiet):
        from trainwire.plugins.progress_bar import ProgressBar  # imports rich, for a terminal only

        last.append(ProgressBar())
    if options.default_plugins:
        last += [RegularLogging(), Checkpoints(minutes=CHECKPOINT_MINUTES)]

    def missing(defaults: Sequence[Plugin]) -> list[Plugin]:
        return [default for default in defaults if not any(isinstance(plugin, type(default)) for plugin in plugins)]

    return in_order([*missing(first), *plugins, *missing(last)])
