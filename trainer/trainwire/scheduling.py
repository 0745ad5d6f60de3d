"""What schedules of the learning rate have in common."""

from __future__ import annotations

from typing import ClassVar

from trainwire.optimizers import learning_rates, one_or_each
from trainwire.plugin import Plugin
from trainwire.run import TrainingRun


class Scheduler(Plugin):
    """Base of plugins that set the learning rate: with one of them, the default schedule is not attached."""

    sets_each_step: ClassVar[bool] = False
    """Whether it sets the rate at each step, so that nobody else can."""


def set_learning_rates(run: TrainingRun, rates: list[float], reason: str) -> None:
    """Give each group of the optimizer its learning rate, and say so on the wire if one changes."""
    before = learning_rates(run.optimizer)
    for group, rate in zip(run.optimizer.param_groups, rates, strict=True):
        group["lr"] = rate
    say_changed(run, before, reason)


def say_changed(run: TrainingRun, before: list[float], reason: str) -> None:
    """Publish `learning_rate/changed` if a learning rate is not what it was before."""
    after = learning_rates(run.optimizer)
    if after != before:
        run.publish("learning_rate/changed", {"from": one_or_each(before), "to": one_or_each(after), "reason": reason})
