"""Raises the learning rate linearly at the start, then lowers it linearly to zero."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from trainwire.training.hooks.hooks import hook
from trainwire.training.hooks.payloads import AfterSetup, AfterTrainingBatch, BeforeTrainingOptimizerStep
from trainwire.training.model.optimizers import learning_rates, metric_name, one_or_each
from trainwire.training.plugin import Scheduler
from trainwire_protocol.errors import OptionError

logger = logging.getLogger("trainwire")


class LinearSchedule(Scheduler):
    """Raises the learning rate linearly during a warm-up, and then lowers it linearly to zero.

    The number of updates is derived from `max_steps`, or from `max_epochs` and the number of batches in an epoch.

    Args:
        warmup_fraction: The fraction of the updates in which the learning rate rises.

    Raises:
        OptionError: if the fraction is out of range, or, when a training begins, the number of updates is unknown.
    """

    sets_each_step = True

    def __init__(self, warmup_fraction: float = 0.1) -> None:
        if not 0 <= warmup_fraction <= 1:
            raise OptionError(f"LinearSchedule: warmup_fraction is {warmup_fraction}; it must be between 0 and 1")
        self.warmup_fraction = warmup_fraction
        self._peaks: dict[str, list[float]] = {}
        self._steps = self._warmup = 0

    @hook
    def after_setup(self, setup: AfterSetup) -> None:
        """Determine the number of updates, and set the learning rate of the first one."""
        steps = self.run.planned_steps
        if steps is None:
            raise OptionError("LinearSchedule: the number of training batches is unknown; pass max_steps=")
        self._steps, self._warmup = steps, round(steps * self.warmup_fraction)
        self._peaks = {name: learning_rates(optimizer) for name, optimizer in self.run.optimizers.items()}
        self._set(0)

    def describe(self) -> str:
        """Return in which updates the rate rises and falls."""
        return f"rises for {self._warmup:,} updates, then falls to zero at update {self._steps:,}"

    @hook
    def before_training_optimizer_step(self, step: BeforeTrainingOptimizerStep) -> None:
        """Include groups that were added to the optimizer: their learning rate is their peak."""
        peaks = self._peaks[step.optimizer]
        added = learning_rates(self.run.optimizers[step.optimizer])[len(peaks) :]
        if added:
            peaks += added
            self._set(step.step - 1)

    @hook
    def after_training_batch(self, batch: AfterTrainingBatch) -> None:
        """Set and record the learning rate of the next update."""
        self._set(batch.step)
        if batch.step == self._steps + 1:
            logger.warning(
                "the learning rate is 0 since step %d, the end that LinearSchedule expected from the length of the "
                "loader or max_steps: pass max_steps= if the loader has another length", self._steps,
            )  # fmt: skip
        for name, optimizer in self.run.optimizers.items():
            self.run.record({metric_name("learning_rate", name): one_or_each(learning_rates(optimizer))})
            if batch.step == self._warmup:
                self.run.publish_learning_rates([0.0] * len(self._peaks[name]), "the warm-up is over", name)

    def _set(self, step: int) -> None:
        """Set the learning rate of the update that follows `step` updates."""
        for name, optimizer in self.run.optimizers.items():
            for group, peak in zip(optimizer.param_groups, self._peaks[name], strict=True):
                group["lr"] = peak * self._factor(step)

    def _factor(self, step: int) -> float:
        if step < self._warmup:
            return (step + 1) / (self._warmup + 1)
        return max(0.0, (self._steps - step) / max(1, self._steps - self._warmup))

    def change_initial_rates(self, rates: Sequence[float | None], optimizer: str = "") -> None:
        """Continue with other peaks."""
        pairs = zip(self._peaks[optimizer], rates, strict=True)
        self._peaks[optimizer] = [peak if rate is None else rate for peak, rate in pairs]
        self._set(self.run.state.step)

    def state_dict(self) -> dict[str, Any]:
        """Return the peak learning rate of each optimizer's parameter groups."""
        return {"peaks": self._peaks}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the peaks, and continue towards the end of this attempt, which may be a different one."""
        self._peaks = {name: list(peaks) for name, peaks in state["peaks"].items()}
        self._set(self.run.state.step)
