"""A guard against losses and gradients that are not finite, or leap up."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal, TypeAlias, get_args

import torch
from torch import Tensor

from trainwire.bus.gpu import GpuReadings
from trainwire.training.hooks.hooks import hook
from trainwire.training.hooks.payloads import (
    AfterSetup,
    BeforeTrainingEpoch,
    BeforeTrainingOptimizerStep,
    TrainingFinally,
)
from trainwire.training.optimizers import optimizer_parameters
from trainwire.training.plugin import Plugin
from trainwire_protocol.errors import OptionError
from trainwire_protocol.statistics import DEVIATIONS_PER_MAD, MIN_RELATIVE_DEVIATION, low_median_index

Action: TypeAlias = Literal["stop", "skip", "continue"]

WATCHED: Final = ("loss", "gradient_norm")


class AnomalyGuard(Plugin):
    """Finds steps whose loss or gradient norm is not finite, or is a spike, and does something about it.

    A value is a spike if it is above the median of the last `window` steps by more than `threshold` standard
    deviations, which are estimated from the median absolute deviation (Hampel's identifier: Hampel 1974, "The Influence
    Curve and Its Role in Robust Estimation"; Leys et al. 2013, "Detecting outliers"). There are none before the window
    is full; then both are estimated anew after every tenth of it. The first of several in a row is published as
    `anomaly/detected` {what, kind, step, value, median, action}; the median is null as long as it is not known.

    All of it is computed where the loss is, and read once it has arrived: a GPU is waited for only at the end and for a
    checkpoint, and an anomaly is known a few steps later. The gradients, however, are set to zero in the step itself,
    by one small operation for each parameter, unless both actions are "continue".

    With fp16 and its scaler, gradients that are not finite are the scaler's business, and no anomaly.

    Args:
        on_nonfinite: What to do about a loss or gradient norm that is not finite. "skip" sets the gradients to zero if
            it is the norm, which is the same on all ranks; what the optimizer then still moves comes of its momentum
            and weight decay, and a loss that is not finite does not count in the epoch's mean. "stop" sets them to
            zero too, and ends the training. "continue" only publishes it.
        on_spike: What to do about a spike: the same.
        threshold: Standard deviations above the median from which on a value is a spike.
        window: Steps that it is compared to.

    Raises:
        OptionError: there is no such action, or a number is out of its range.
    """

    checks_each_loss = True

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
        self._begin(torch.device("cpu"))

    def _begin(self, device: torch.device) -> None:
        self._steps = 0
        self._values = torch.zeros(self.window, len(WATCHED), device=device)
        self._bounds = torch.tensor([[0.0] * len(WATCHED), [torch.inf] * len(WATCHED)], device=device)
        """The medians, and what is a spike above them."""
        self._readings: GpuReadings[tuple[int, bool]] = GpuReadings()
        self._last: dict[tuple[str, str], int] = {}

    @hook
    def after_setup(self, setup: AfterSetup) -> None:
        """Begin anew."""
        self._begin(setup.device)

    @hook
    def before_training_epoch(self, epoch: BeforeTrainingEpoch) -> None:  # noqa: ARG002  # every hook has its payload
        """Leave losses of skipped steps out of the epoch's mean."""
        self.run.state.epoch.loss.finite_only = self.on_nonfinite == "skip"

    @hook
    def before_training_optimizer_step(self, step: BeforeTrainingOptimizerStep) -> None:
        """Look at the step, without knowing what there is, and read what is known of earlier ones."""
        values = torch.stack([step.loss.float(), step.gradient_norm.float()])
        is_finite = values.isfinite()
        is_spike = is_finite & (values > self._bounds[1])
        self._protect(~is_finite[1], is_spike[1])
        about = (step.step, self._steps >= self.window)
        self._readings.add(about, torch.cat([values, is_spike.float(), self._bounds[0]]))
        self._remember(torch.where(is_finite, values, self._bounds[0]))
        for (number, is_full), read in self._readings.take():
            self._judge(number, is_full, read)

    @hook
    def training_finally(self, ending: TrainingFinally) -> None:  # noqa: ARG002  # every hook has its payload
        """Read the rest; a GPU is waited for here."""
        self._judge_all()

    def state_dict(self) -> dict[str, Any]:
        """The values of the last steps, and how many there were; a GPU is waited for here."""
        self._judge_all()
        return {"steps": self._steps, "values": self._values.clone(), "bounds": self._bounds.clone()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from them; if the window has another size now, begin anew."""
        if state["values"].shape == self._values.shape:
            device = self._values.device
            self._steps, self._values = state["steps"], state["values"].to(device)
            self._bounds = state["bounds"].to(device)

    def _remember(self, values: Tensor) -> None:
        """Keep the step's values, and after every tenth of the window compute the bounds anew."""
        self._values[self._steps % self.window] = values
        self._steps += 1
        if self._steps >= self.window and self._steps % max(1, self.window // 10) == 0:
            median = _median(self._values)
            deviation = DEVIATIONS_PER_MAD * _median((self._values - median).abs())
            limit = median + self.threshold * torch.maximum(deviation, MIN_RELATIVE_DEVIATION * median.abs())
            self._bounds = torch.stack([median, limit])

    def _protect(self, is_not_finite: Tensor, is_spike: Tensor) -> None:
        """Set the gradients to zero on the device if their norm is bad, unless it is to go on as it is."""
        is_bad = torch.zeros_like(is_spike)
        if self.on_nonfinite != "continue":
            is_bad = is_bad | is_not_finite
        if self.on_spike != "continue":
            is_bad = is_bad | is_spike
        if (self.on_nonfinite, self.on_spike) != ("continue", "continue"):
            for parameter in optimizer_parameters(self.run.optimizer):
                if (gradient := parameter.grad) is not None:
                    (gradient.values() if gradient.is_sparse else gradient).masked_fill_(is_bad, 0.0)

    def _judge_all(self) -> None:
        for (number, is_full), read in self._readings.take_all():
            self._judge(number, is_full, read)

    def _judge(self, step: int, is_full: bool, read: Sequence[float]) -> None:
        for position, what in enumerate(WATCHED):
            value, is_spike, known = read[position :: len(WATCHED)]
            median = known if is_full else None
            if is_spike:
                self._tell(what, "spike", self.on_spike, step, value, median)
            elif not -torch.inf < value < torch.inf and not (what == "gradient_norm" and self._is_scaled):
                self._tell(what, "not finite", self.on_nonfinite, step, value, median)

    def _tell(self, what: str, kind: str, action: Action, step: int, value: float, median: float | None) -> None:
        if self._last.get((what, kind)) != step - 1:
            about = {"what": what, "kind": kind, "step": step, "value": value, "median": median, "action": action}
            self.run.bus.publish("anomaly/detected", about, "lifecycle", self.run.state.step)
        self._last[what, kind] = step
        if action == "stop":
            usual = "" if median is None else f": the median is {median:.4g}"
            self.run.control.stop(f"{what} is {value:.4g} in step {step}, {kind}{usual}")

    @property
    def _is_scaled(self) -> bool:
        return self.run.precision.scaler is not None


def _median(values: Tensor) -> Tensor:
    """The median of each column, the lower one of two; `torch.median` is not deterministic on a GPU."""
    return values.sort(dim=0).values[low_median_index(len(values))]
