"""Detects losses and gradients that are not finite or are spikes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal, TypeAlias, get_args

import torch
from torch import Tensor

from trainwire.bus.values.gpu import GpuReadings
from trainwire.training.hooks.hooks import hook
from trainwire.training.hooks.payloads import (
    AfterSetup,
    BeforeTrainingEpoch,
    BeforeTrainingOptimizerStep,
    TrainingFinally,
)
from trainwire.training.metrics import format_metric
from trainwire.training.model.optimizers import metric_name
from trainwire.training.model.parameters import optimizer_parameters
from trainwire.training.plugin import Plugin
from trainwire_protocol.errors import OptionError
from trainwire_protocol.statistics import DEVIATIONS_PER_MAD, MIN_RELATIVE_DEVIATION, low_median_index

Action: TypeAlias = Literal["stop", "skip", "continue"]

WATCHED: Final = ("loss", "gradient_norm")


class AnomalyGuard(Plugin):
    """Detects steps whose loss or gradient norm is not finite or is a spike, and stops the training or skips the step.

    A value is a spike if it is above the median of the last `window` steps by more than `threshold` standard
    deviations, which are estimated from the median absolute deviation (Hampel's identifier: Hampel 1974, "The Influence
    Curve and Its Role in Robust Estimation"; Leys et al. 2013, "Detecting outliers"). Spikes are detected once the
    window is full; the estimates are then updated after every tenth of a window. The first of several consecutive
    anomalies is published as `anomaly/detected` {what, kind, step, value, median, action}; the median is null until it
    is known. With several optimizers, the values of each are compared with its own, and `what` includes its name:
    `loss/generator`.

    The values are compared on the loss's device, and read asynchronously: the GPU is synchronized only for a checkpoint
    and at the end, and an anomaly is reported a few steps later. The gradients, however, are set to zero in the step
    itself, by one small operation for each parameter, unless both actions are "continue".

    With fp16, gradients that are not finite are handled by the gradient scaler, and are not an anomaly.

    Args:
        on_nonfinite: The action for a loss or gradient norm that is not finite. "skip" sets the gradients to zero if
            the norm, which is the same on all ranks, is not finite; the optimizer then changes the weights only by
            its momentum and weight decay. The epoch's mean loss does not include losses that are not finite. "stop"
            sets the gradients to zero too, and ends the training. "continue" only publishes the anomaly.
        on_spike: The action for a spike: one of the same three.
        threshold: The number of standard deviations above the median beyond which a value is a spike.
        window: The number of preceding steps that a value is compared with.

    Raises:
        OptionError: if an action does not exist, or a number is out of range.
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
                raise OptionError(
                    f"AnomalyGuard: {action!r} is not an action; the actions are {', '.join(get_args(Action))}"
                )
        if not threshold > 0 or window < 3:
            raise OptionError(
                f"AnomalyGuard: threshold is {threshold} and window is {window}; they must be above 0 and at least 3"
            )
        self.on_nonfinite = on_nonfinite
        self.on_spike = on_spike
        self.threshold = threshold
        self.window = window
        self._reset(torch.device("cpu"))

    def _reset(self, device: torch.device) -> None:
        self._device = device
        self._windows: dict[str, Window] = {}
        self._readings: GpuReadings[tuple[str, int, bool]] = GpuReadings()
        self._last: dict[tuple[str, str], int] = {}

    def _window_of(self, optimizer: str) -> Window:
        return self._windows.setdefault(optimizer, Window(self.window, self.threshold, self._device))

    @hook
    def after_setup(self, setup: AfterSetup) -> None:
        """Reset the windows."""
        self._reset(setup.device)

    @hook
    def before_training_epoch(self, epoch: BeforeTrainingEpoch) -> None:
        """Exclude losses that are not finite from the epoch's mean, if such steps are skipped."""
        self.run.state.epoch.loss.finite_only = self.on_nonfinite == "skip"

    @hook
    def before_training_optimizer_step(self, step: BeforeTrainingOptimizerStep) -> None:
        """Check the step on its device, and handle the anomalies of earlier steps whose values have arrived."""
        values = torch.stack([step.loss.float(), step.gradient_norm.float()])
        is_finite = values.isfinite()
        window = self._window_of(step.optimizer)
        medians, limits = window.bounds
        is_spike = is_finite & (values > limits)
        self._zero_bad_gradients(step.optimizer, ~is_finite[1], is_spike[1])
        label = (step.optimizer, step.step, window.is_full)
        self._readings.add(label, torch.cat([values, is_spike.float(), medians]))
        window.add(torch.where(is_finite, values, medians))
        for about, read in self._readings.take():
            self._handle(*about, read)

    @hook
    def training_finally(self, ending: TrainingFinally) -> None:
        """Handle the remaining anomalies. Synchronizes with the GPU."""
        self._handle_all()

    def state_dict(self) -> dict[str, Any]:
        """Return the values in each optimizer's window, and its bounds. Synchronizes with the GPU."""
        self._handle_all()
        return {name: window.state_dict() for name, window in self._windows.items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` returned, unless the window has a different size now."""
        for name, saved in state.items():
            self._window_of(name).load_state_dict(saved)

    def _zero_bad_gradients(self, optimizer: str, is_not_finite: Tensor, is_spike: Tensor) -> None:
        """Set the gradients to zero, on the device, if their norm is an anomaly and its action is not "continue"."""
        is_bad = torch.zeros_like(is_spike)
        if self.on_nonfinite != "continue":
            is_bad = is_bad | is_not_finite
        if self.on_spike != "continue":
            is_bad = is_bad | is_spike
        if (self.on_nonfinite, self.on_spike) != ("continue", "continue"):
            for parameter in optimizer_parameters(self.run.optimizers[optimizer]):
                if (gradient := parameter.grad) is not None:
                    (gradient.values() if gradient.is_sparse else gradient).masked_fill_(is_bad, 0.0)

    def _handle_all(self) -> None:
        for about, read in self._readings.take_all():
            self._handle(*about, read)

    def _handle(self, optimizer: str, step: int, is_full: bool, read: Sequence[float]) -> None:
        is_scaled = self.run.precision.scaler is not None
        for position, watched in enumerate(WATCHED):
            value, is_spike, known = read[position :: len(WATCHED)]
            what, median = metric_name(watched, optimizer), known if is_full else None
            if is_spike:
                self._report(what, "spike", self.on_spike, step, value, median)
            elif not -torch.inf < value < torch.inf and not (watched == "gradient_norm" and is_scaled):
                self._report(what, "not finite", self.on_nonfinite, step, value, median)

    def _report(self, what: str, kind: str, action: Action, step: int, value: float, median: float | None) -> None:
        if self._last.get((what, kind)) != step - 1:
            about = {"what": what, "kind": kind, "step": step, "value": value, "median": median, "action": action}
            self.run.bus.publish("anomaly/detected", about, "lifecycle", self.run.state.step)
        self._last[what, kind] = step
        if action == "stop":
            detail = "" if median is None else f": the median is {format_metric(median)}"
            self.run.control.stop(f"{what} is {format_metric(value)} in step {step}, {kind}{detail}")


class Window:
    """The loss and the gradient norm in the last steps of one optimizer."""

    def __init__(self, size: int, threshold: float, device: torch.device) -> None:
        self._threshold = threshold
        self._steps = 0
        self._values = torch.zeros(size, len(WATCHED), device=device)
        self.bounds = torch.tensor([[0.0] * len(WATCHED), [torch.inf] * len(WATCHED)], device=device)
        """The medians, and the limits above which a value is a spike."""

    @property
    def is_full(self) -> bool:
        """Whether it has the values of as many steps as it can hold."""
        return self._steps >= len(self._values)

    def add(self, values: Tensor) -> None:
        """Add a step's values, and update the bounds after every tenth of the window."""
        size = len(self._values)
        self._values[self._steps % size] = values
        self._steps += 1
        if self.is_full and self._steps % max(1, size // 10) == 0:
            median = _median(self._values)
            deviation = DEVIATIONS_PER_MAD * _median((self._values - median).abs())
            limit = median + self._threshold * torch.maximum(deviation, MIN_RELATIVE_DEVIATION * median.abs())
            self.bounds = torch.stack([median, limit])

    def state_dict(self) -> dict[str, Any]:
        """Return the number of steps, the values and the bounds."""
        return {"steps": self._steps, "values": self._values.clone(), "bounds": self.bounds.clone()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` returned, unless it had a different size."""
        if state["values"].shape == self._values.shape:
            device = self._values.device
            self._steps, self._values = state["steps"], state["values"].to(device)
            self.bounds = state["bounds"].to(device)


def _median(values: Tensor) -> Tensor:
    """Return the median of each column, the lower one of two; `torch.median` is not deterministic on a GPU."""
    return values.sort(dim=0).values[low_median_index(len(values))]
