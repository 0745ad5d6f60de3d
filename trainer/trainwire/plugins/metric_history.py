"""Keeps recorded metrics in memory, for example to plot them after the training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any, Final

from torch import Tensor

from trainwire.training.hooks.hooks import hook
from trainwire.training.hooks.payloads import AfterSetup, MetricRecorded, MetricValue
from trainwire.training.plugin import Plugin

DEFAULT_METRICS: Final = ("train/loss", "learning_rate", "dev/*", "val/*", "test/*")


class MetricHistory(Plugin):
    """Keeps the values of metrics in memory, each with its step.

        history = MetricHistory()
        trainer.train("runs/mine", train=data, dev=dev, plugins=[history])
        steps, losses = zip(*history["dev/loss"])

    It is available during the training and after it. A tensor is copied on its device, and read when the history is
    accessed, at an evaluation or at the end of an epoch, which synchronizes with the GPU.

    Args:
        metrics: Shell patterns of the names of the metrics to keep, such as `train/*`.
    """

    essential = False

    def __init__(self, metrics: Sequence[str] = DEFAULT_METRICS) -> None:
        self.metrics = (metrics,) if isinstance(metrics, str) else tuple(metrics)
        self._values: dict[str, list[tuple[int, MetricValue]]] = {}
        self._unread: list[tuple[str, int, MetricValue | Tensor]] = []

    def __getitem__(self, name: str) -> list[tuple[int, MetricValue]]:
        """Return the steps and values of a metric, in the order recorded. May synchronize with the GPU."""
        return self.values[name]

    @property
    def values(self) -> dict[str, list[tuple[int, MetricValue]]]:
        """The steps and values of each metric, in the order recorded. May synchronize with the GPU."""
        for name, step, value in self._unread:
            number = value.item() if isinstance(value, Tensor) else value
            self._values.setdefault(name, []).append((step, number))
        self._unread = []
        return self._values

    @hook
    def after_setup(self, setup: AfterSetup) -> None:
        """Clear the history."""
        self._values, self._unread = {}, []

    @hook
    def metric_recorded(self, metric: MetricRecorded) -> None:
        """Keep the metric if its name matches a pattern."""
        if any(fnmatchcase(metric.name, pattern) for pattern in self.metrics):
            # A copy, because a later in-place update must not change the recorded value.
            value = metric.value.detach().clone() if isinstance(metric.value, Tensor) else metric.value
            self._unread.append((metric.name, metric.step, value))

    @hook("after_step_evaluation", "after_training_epoch", "training_finally")
    def read(self, ending: object) -> None:
        """Read the tensors recorded since. Synchronizes with the GPU."""
        _ = self.values

    def state_dict(self) -> dict[str, Any]:
        """Return all values."""
        return {"values": {name: list(values) for name, values in self.values.items()}}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self._values = {name: [(step, value) for step, value in values] for name, values in state["values"].items()}
        self._unread = []
