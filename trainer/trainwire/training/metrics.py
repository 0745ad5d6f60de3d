"""Metrics: their names, their values, and the main metric, by which models are compared."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

from torch import Tensor

from trainwire.training.hooks.payloads import MetricValue
from trainwire.training.options import TrainingOptions
from trainwire_protocol.errors import OptionError, UsageError

if TYPE_CHECKING:
    from torchmetrics import Metric, MetricCollection

    Metrics: TypeAlias = Mapping[str, Metric] | Sequence[Metric] | MetricCollection | Metric
    """What `ModelTrainer` takes as metrics."""

logger = logging.getLogger("trainwire")


def named_metrics(metrics: Metrics | None) -> dict[str, Metric]:
    """Return the metrics by name; those given without a name are named after their class.

    Raises:
        OptionError: if something is not a metric, or two have the same name.
    """
    if metrics is None:
        return {}
    from torchmetrics import Metric, MetricCollection

    if isinstance(metrics, MetricCollection):
        return {name: metric for name, metric in metrics.items() if isinstance(metric, Metric)}
    if isinstance(metrics, Metric):
        metrics = [metrics]
    if not isinstance(metrics, (Mapping, Sequence)):
        raise OptionError(f"metrics is {metrics!r}: give torchmetrics metrics, in a mapping or in a list")
    pairs = metrics.items() if isinstance(metrics, Mapping) else [(type(metric).__name__, metric) for metric in metrics]
    named: dict[str, Metric] = {}
    for name, metric in pairs:
        if not isinstance(metric, Metric):
            raise OptionError(f"the metric {name!r} is {metric!r}, which is not a torchmetrics.Metric")
        if not isinstance(name, str) or not name or name == "loss" or name in named:
            raise OptionError(f"a metric cannot be named {name!r}: names are unique strings, and 'loss' is reserved")
        named[name] = metric
    return named


def read_metric(name: str, value: object) -> dict[str, MetricValue]:
    """Return a computed metric as one number, a list with one for each class, or one for each key of a map."""
    if isinstance(value, Mapping):
        return {
            key: part for label, item in value.items() for key, part in read_metric(f"{name}/{label}", item).items()
        }
    if isinstance(value, Tensor) and value.dim() <= 1:
        return {name: value.item() if value.dim() == 0 else [float(item) for item in value.tolist()]}
    if isinstance(value, (int, float)):
        return {name: float(value)}
    logger.warning("the metric %s is not recorded: it is neither a number nor a list of numbers", name)
    return {}


def format_metric(value: MetricValue) -> str:
    """Return a metric's numbers with four significant digits, so that 5e-5 is not shown as 0.0001."""
    return ", ".join(f"{number:.4g}" for number in (value if isinstance(value, list) else [value]))


@dataclass(frozen=True, slots=True)
class MainMetric:
    """The metric by which models are compared."""

    name: str
    """Includes the split: `dev/accuracy`."""
    higher_is_better: bool

    def rank(self, metrics: Mapping[str, MetricValue]) -> tuple[float, float] | None:
        """Return a sort key for an epoch's metrics: larger is better; among equal scores, the lower loss is better.

        Returns None if the epoch was not evaluated, or the score is NaN.

        Raises:
            UsageError: if the main metric is a list of numbers.
        """
        score = metrics.get(self.name, math.nan)
        loss = metrics.get(f"{self.name.partition('/')[0]}/loss", math.nan)
        if isinstance(score, list):
            raise UsageError(f"{self.name} is a list of {len(score)} numbers: the main metric must be a single number")
        if math.isnan(score):
            return None
        tie_break = -math.inf if isinstance(loss, list) or math.isnan(loss) else -loss
        return score if self.higher_is_better else -score, tie_break


class BestSoFar:
    """The best rank of all epochs so far, and the number of epochs since."""

    def __init__(self) -> None:
        self.bad_epochs = 0
        """Epochs since the best one."""
        self._rank: tuple[float, float] | None = None

    def update(self, rank: tuple[float, float] | None) -> bool:
        """Count an epoch with this rank, or None if it has no score, and return whether it is the best so far."""
        is_best = rank is not None and (self._rank is None or rank > self._rank)
        self._rank, self.bad_epochs = (rank, 0) if is_best else (self._rank, self.bad_epochs + 1)
        return is_best

    def state_dict(self) -> dict[str, Any]:
        """Return the rank and the count."""
        return {"best": self._rank and list(self._rank), "bad_epochs": self.bad_epochs}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        best, self.bad_epochs = state["best"], state["bad_epochs"]
        self._rank = None if best is None else (best[0], best[1])


def main_metric(options: TrainingOptions, metrics: Mapping[str, Metric], splits: Sequence[str]) -> MainMetric | None:
    """Return the main metric, or None if there is no dev split and none was requested.

    Args:
        splits: The splits that are evaluated after each epoch.

    Raises:
        OptionError: if the requested metric is not recorded, or does not define whether higher is better.
    """
    directions: dict[str, bool | None] = {"train/loss": False}
    for split in splits:
        directions |= {f"{split}/{name}": metric.higher_is_better for name, metric in metrics.items()}
        directions[f"{split}/loss"] = False
    name = options.main_evaluation_metric
    if name is None:
        if options.dev_name not in splits:
            return None
        name = f"{options.dev_name}/{next(iter(metrics), 'loss')}"
    base = next((known for known in directions if name == known or name.startswith(f"{known}/")), None)
    if base is None:
        raise OptionError(f"main_evaluation_metric is {name!r}; the recorded metrics are {', '.join(directions)}")
    direction = directions[base]
    if direction is None:
        raise OptionError(f"main_evaluation_metric is {name!r}, which does not define whether higher is better")
    return MainMetric(name, direction)
