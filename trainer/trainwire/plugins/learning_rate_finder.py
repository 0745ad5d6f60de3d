"""Finds a learning rate by a range test: the rate rises exponentially over some steps."""

from __future__ import annotations

import copy
import logging
import math
from collections.abc import Mapping
from typing import Any, Literal

from trainwire.training.hooks.hooks import hook
from trainwire.training.hooks.payloads import AfterSetup, AfterTrainingBatch, AfterTrainingLoop, BeforeTrainingBatch
from trainwire.training.metrics import format_metric
from trainwire.training.model.optimizers import learning_rates
from trainwire.training.plugin import Scheduler
from trainwire_protocol.errors import OptionError

logger = logging.getLogger("trainwire")


class LearningRateFinder(Scheduler):
    """Raises the learning rate exponentially in the first steps, and suggests the rate at which the loss falls fastest.

    This is the learning rate range test (Smith 2015, "Cyclical Learning Rates for Training Neural Networks",
    https://arxiv.org/abs/1506.01186). In each step, `learning_rate_finder/rate` and `learning_rate_finder/loss`, an
    exponential moving average of the batches' losses, are recorded, and at the end `learning_rate_finder/suggestion`,
    unless the loss has not fallen. Then the model, the loss and the optimizer are as they were before the test, which
    ends early if the loss diverges.

    Each step of the test waits for the GPU. It is not repeated in a resumed training.

    Args:
        minimum: The rate of the first step.
        maximum: The rate of the last step. Of several parameter groups, it is the rate of the first one, and the others
            keep their ratio to it.
        steps: The number of steps.
        then: Whether to "stop" the training after the test, or to "continue" it with the rate that it was given.
        smoothing: The weight of the earlier losses in the average.
        divergence: The test ends when the average is larger than its minimum by this factor. Of a loss that may be
            negative or zero: when it is above its minimum by `divergence - 1` times the largest absolute value of the
            average up to the minimum.

    Raises:
        OptionError: if an argument is out of range, or, when a training begins, there are several optimizers.
    """

    sets_each_step = True

    def __init__(
        self,
        minimum: float = 1e-7,
        maximum: float = 10.0,
        steps: int = 100,
        then: Literal["stop", "continue"] = "stop",
        smoothing: float = 0.9,
        divergence: float = 4.0,
    ) -> None:
        if not 0 < minimum < maximum < math.inf or steps < 3:
            raise OptionError(
                f"LearningRateFinder: minimum is {minimum}, maximum {maximum} and steps {steps}; it must be 0 < "
                "minimum < maximum, and there must be at least 3 steps"
            )
        if then not in ("stop", "continue") or not 0 <= smoothing < 1 or not divergence > 1:
            raise OptionError(
                f"LearningRateFinder: then is {then!r}, smoothing {smoothing} and divergence {divergence}; they must "
                "be 'stop' or 'continue', at least 0 and below 1, and above 1"
            )
        self.minimum, self.maximum, self.steps, self.then = minimum, maximum, steps, then
        self.smoothing, self.divergence = smoothing, divergence
        self._reset()

    def _reset(self) -> None:
        self._is_over = False
        self._before: dict[str, Any] | None = None
        """The state from before the test, while it runs."""
        self._rates: list[float] = []
        self._losses: list[float] = []
        """The average after each step."""
        self._average = 0.0

    @hook
    def after_setup(self, setup: AfterSetup) -> None:
        """Forget the test of an earlier training."""
        if len(self.run.optimizers) > 1:
            raise OptionError("LearningRateFinder: the test is for one optimizer, but there are several")
        self._reset()

    def describe(self) -> str:
        """Return the range of the test."""
        return f"range test from {self.minimum:g} to {self.maximum:g} in {self.steps} steps"

    @hook
    def before_training_batch(self, batch: BeforeTrainingBatch) -> None:
        """Set the rate of the next step."""
        if self._is_over:
            return
        if self._before is None:
            self._before = self._state()
        progress = len(self._rates) / (self.steps - 1)
        initial = self._before["rates"]
        rate = self.minimum * (self.maximum / self.minimum) ** progress
        for group, own in zip(self.run.optimizer.param_groups, initial, strict=False):
            group["lr"] = rate * own / initial[0] if initial[0] else rate

    @hook
    def after_training_batch(self, batch: AfterTrainingBatch) -> None:
        """Record the point of the curve, and end the test if it is the last one."""
        if self._is_over:
            return
        loss = float(self.run.processes.average(batch.loss.detach().clone().float()))  # synchronizes with the GPU
        self._average = self.smoothing * self._average + (1 - self.smoothing) * loss
        average = self._average / (1 - self.smoothing ** (len(self._losses) + 1))
        self._rates.append(learning_rates(self.run.optimizer)[0])
        self._losses.append(average)
        self.run.record({"learning_rate_finder/rate": self._rates[-1], "learning_rate_finder/loss": average})
        if self._diverges() or len(self._losses) == self.steps:
            self._end()
            if self.then == "stop":
                self.run.control.stop(f"the learning rate test is over: {self._outcome()}")

    def _diverges(self) -> bool:
        average, least = self._losses[-1], min(self._losses)
        if not math.isfinite(average):
            return True
        if least > 0:
            return average > self.divergence * least
        scale = max(map(abs, self._losses[: self._losses.index(least) + 1]))
        return average - least > (self.divergence - 1) * scale

    @hook
    def after_training_loop(self, ending: AfterTrainingLoop) -> None:
        """End a test for which the training was too short."""
        if self._before is not None:
            logger.warning("the learning rate test ended after %d of %d steps", len(self._losses), self.steps)
            self._end()

    def suggestion(self) -> float | None:
        """Return the rate at which the average fell fastest, per factor of the rate; None if it has not fallen."""
        finite = [loss for loss in self._losses if math.isfinite(loss)]
        slopes = [(after - before) / 2 for before, after in zip(finite, finite[2:], strict=False)]
        if not slopes or min(slopes) >= 0:
            return None
        return self._rates[slopes.index(min(slopes)) + 1]

    def _outcome(self) -> str:
        suggestion = self.suggestion()
        return "the loss has not fallen" if suggestion is None else f"the suggestion is {format_metric(suggestion)}"

    def _state(self) -> dict[str, Any]:
        run = self.run
        return copy.deepcopy(
            {
                "modules": run.modules.state_dict(), "optimizer": run.optimizer.state_dict(),
                "precision": run.precision.state_dict(), "rates": learning_rates(run.optimizer),
            }
        )  # fmt: skip

    def _end(self) -> None:
        """Restore the state from before the test, and publish the suggestion."""
        run, before = self.run, self._before
        assert before is not None
        run.modules.load_state_dict(before["modules"])
        run.optimizer.load_state_dict(before["optimizer"])
        run.precision.load_state_dict(before["precision"])
        self._before, self._is_over = None, True
        suggestion = self.suggestion()
        if suggestion is not None:
            run.record({"learning_rate_finder/suggestion": suggestion})
        logger.info("learning rate test: %s", self._outcome())

    def state_dict(self) -> dict[str, Any]:
        """Return the curve, and the state from before the test while it runs."""
        return {
            "is_over": self._is_over, "before": self._before, "rates": self._rates, "losses": self._losses,
            "average": self._average,
        }  # fmt: skip

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self._is_over, self._before, self._average = state["is_over"], state["before"], state["average"]
        self._rates, self._losses = list(state["rates"]), list(state["losses"])
