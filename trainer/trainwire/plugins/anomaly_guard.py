"""A guard against losses and gradients that are not finite, or leap up."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal, TypeAlias, get_args

import torch
from torch import Tensor

from trainwire.hooks import hook
from trainwire.optimizers import optimizer_parameters
from trainwire.payloads import AfterSetup, BeforeTrainingOptimizerStep, TrainingFinally
from trainwire.plugin import Plugin
from trainwire.readings import Readings
from trainwire_protocol.errors import OptionError

Action: TypeAlias = Literal["stop", "skip", "continue"]

WATCHED: Final = ("loss", "gradient_norm")

DEVIATIONS_OF_MAD: Final = 1.4826
"""Standard deviations in a median absolute deviation of a normal distribution: 1 / Φ⁻¹(3/4)."""

LEAST_DEVIATION: Final = 0.01
"""The deviation is taken as this share of the median at least, or losses that hardly change would leap each step."""


class AnomalyGuard(Plugin):
    """Finds steps whose loss or gradient norm is not finite, or is a spike, and does something about it.

    A value is a spike if it is above the median of the last `window` steps by more than `threshold` standard
    deviations, which are estimated from the median absolute deviation (Hampel's identifier: Hampel 1974, "The Influence
    Curve and Its Role in Robust Estimation"; Leys et al. 2013, "Detecting outliers"). There are none before the window
    is full. The first of several in a row is published as `anomaly/detected` {what, kind, step, value, median, action}.

    All of it is computed where the loss is, and read once it has arrived: a GPU is waited for at the end only, and an
    anomaly known a few steps later. The gradients, however, are set to zero in the step itself.

    With fp16 and its scaler, gradients that are not finite are the scaler's business, and no anomaly.

    Args:
        on_nonfinite: What to do about a loss or gradient norm that is not finite. "skip" sets the gradients to zero if
            it is the norm, which is the same on all ranks; what the optimizer then still moves comes of its momentum
            and weight decay. "stop" does that too, and ends the training. "continue" only publishes it.
        on_spike: What to do about a spike: the same.
        threshold: Standard deviations above the median from which on a value is a spike.
        window: Steps that it is compared to.

    Raises:
        OptionError: there is no such action, or a number is out of its range.
    """

    def __init__(
        self,
        on_nonfinite: Action = "stop",
        on_spike: Action = "continue",
        threshold: float = 10.0,
        window: int = 100,
    ) -> None:
        for action in (on_nonfinite, on_spike):
            if action not in get_args(Action):
                raise OptionError(f"AnomalyGuard: {action!r} is no action: choose of {', '.join(get_args(Action))}")
        if not threshold > 0 or window < 3:
            raise OptionError(f"AnomalyGuard: threshold is {threshold} and window {window}: above 0 and at least 3")
        self.on_nonfinite = on_nonfinite
        self.on_spike = on_spike
        self.threshold = threshold
        self.window = window
        self._steps = 0
        self._values = torch.zeros(window, len(WATCHED))
        self._readings: Readings[int] = Readings()
        self._last: dict[tuple[str, str], int] = {}

    @hook
    def after_setup(self, setup: AfterSetup) -> None:
        """Begin anew."""
        self._steps, self._last, self._readings = 0, {}, Readings()
        self._values = torch.zeros(self.window, len(WATCHED), device=setup.device)

    @hook
    def before_training_optimizer_step(self, step: BeforeTrainingOptimizerStep) -> None:
        """Look at the step, without knowing what there is, and read what is known of earlier ones."""
        values = torch.stack([step.loss.float(), step.gradient_norm.float()])
        median, limit = self._limits()
        is_finite = values.isfinite()
        is_spike = is_finite & (values > limit)
        self._protect(~is_finite[1], is_spike[1])
        self._values[self._steps % self.window] = torch.where(is_finite, values, median)
        self._steps += 1
        self._readings.add(step.step, torch.cat([values, is_spike.float(), median]))
        for number, read in self._readings.take():
            self._judge(number, read)

    @hook
    def training_finally(self, ending: TrainingFinally) -> None:  # noqa: ARG002  # every hook has its payload
        """Read the rest; a GPU is waited for here."""
        self._judge_all()

    def state_dict(self) -> dict[str, Any]:
        """The values of the last steps, and how many there were; a GPU is waited for here."""
        self._judge_all()
        return {"steps": self._steps, "values": self._values.clone()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from them; if the window has another size now, begin anew."""
        if state["values"].shape == self._values.shape:
            self._steps, self._values = state["steps"], state["values"].to(self._values.device)

    def _limits(self) -> tuple[Tensor, Tensor]:
        """The median of the window, and what is a spike above it: for the loss and for the gradient norm."""
        if self._steps < self.window:
            last = self._values[self._steps - 1]
            return last, torch.full_like(last, torch.inf)
        median = _median(self._values)
        deviation = DEVIATIONS_OF_MAD * _median((self._values - median).abs())
        return median, median + self.threshold * torch.maximum(deviation, LEAST_DEVIATION * median.abs())

    def _protect(self, is_not_finite: Tensor, is_spike: Tensor) -> None:
        """Set the gradients to zero on the device if their norm is bad, unless it is to go on as it is."""
        is_bad = torch.zeros_like(is_spike)
        if self.on_nonfinite != "continue":
            is_bad = is_bad | is_not_finite
        if self.on_spike != "continue":
            is_bad = is_bad | is_spike
        if (self.on_nonfinite, self.on_spike) != ("continue", "continue"):
            for parameter in optimizer_parameters(self.run.optimizer):
                if parameter.grad is not None:
                    parameter.grad.masked_fill_(is_bad, 0.0)

    def _judge_all(self) -> None:
        for number, read in self._readings.take_all():
            self._judge(number, read)

    def _judge(self, step: int, read: Sequence[float]) -> None:
        for position, what in enumerate(WATCHED):
            value, is_spike, median = read[position :: len(WATCHED)]
            if is_spike:
                self._tell(what, "spike", self.on_spike, step, value, median)
            elif not -torch.inf < value < torch.inf and not (what == "gradient_norm" and self._is_scaled):
                self._tell(what, "not finite", self.on_nonfinite, step, value, median)

    def _tell(self, what: str, kind: str, action: Action, step: int, value: float, median: float) -> None:
        if self._last.get((what, kind)) != step - 1:
            about = {"what": what, "kind": kind, "step": step, "value": value, "median": median, "action": action}
            self.run.bus.publish("anomaly/detected", about, "lifecycle", self.run.state.step)
        self._last[what, kind] = step
        if action == "stop":
            self.run.control.stop(f"{what} is {value:.4g} in step {step}, {kind}: the median is {median:.4g}")

    @property
    def _is_scaled(self) -> bool:
        return self.run.precision.scaler is not None


def _median(values: Tensor) -> Tensor:
    """The median of each column, the lower one of two; `torch.median` is not deterministic on a GPU."""
    return values.sort(dim=0).values[(len(values) - 1) // 2]
