"""Keeps recorded metrics at hand, for who wants to plot them once the training is over."""

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

    It is there during the training and after it. A tensor is copied where it is; a GPU is waited for when it is looked
    at, and once an epoch, lest many pile up there.

    Args:
        metrics: Patterns of the names of the metrics to keep, as in a shell: `train/*`.
    """

    essential = False

    def __init__(self, metrics: Sequence[str] = DEFAULT_METRICS) -> None:
        self.metrics = (metrics,) if isinstance(metrics, str) else tuple(metrics)
        self._values: dict[str, list[tuple[int, MetricValue]]] = {}
        self._unread: list[tuple[str, int, MetricValue | Tensor]] = []

    def __getitem__(self, name: str) -> list[tuple[int, MetricValue]]:
        """The steps and values of a metric, in the order recorded; a GPU may be waited for."""
        return self.values[name]

    @property
    def values(self) -> dict[str, list[tuple[int, MetricValue]]]:
        """The steps and values of each metric, in the order recorded; a GPU may be waited for."""
        for name, step, value in self._unread:
            number = value.item() if isinstance(value, Tensor) else value
            self._values.setdefault(name, []).append((step, number))
        self._unread = []
        return self._values

    @hook
    def after_setup(self, setup: AfterSetup) -> None:  # noqa: ARG002  # every hook has its payload
        """Begin anew."""
        self._values, self._unread = {}, []

    @hook
    def metric_recorded(self, metric: MetricRecorded) -> None:
        """Keep it, if it is wanted."""
        if any(fnmatchcase(metric.name, pattern) for pattern in self.metrics):
            # Copied, as an in-place update must not change what was recorded.
            value = metric.value.detach().clone() if isinstance(metric.value, Tensor) else metric.value
            self._unread.append((metric.name, metric.step, value))

    @hook("after_training_epoch", "training_finally")
    def read(self, ending: object) -> None:  # noqa: ARG002  # every hook has its payload
        """Read the epoch's tensors; a GPU is waited for here."""
        _ = self.values

    def state_dict(self) -> dict[str, Any]:
        """All values so far."""
        return {"values": {name: list(values) for name, values in self.values.items()}}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from them."""
        self._values = {name: [(step, value) for step, value in values] for name, values in state["values"].items()}
        self._unread = []
