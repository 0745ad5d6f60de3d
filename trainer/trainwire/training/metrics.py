"""Metrics by name, and the one that says which model is best."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

from trainwire.training.hooks.payloads import MetricValue
from trainwire.training.options import TrainingOptions
from trainwire_protocol.errors import OptionError, UsageError

if TYPE_CHECKING:
    from torchmetrics import Metric, MetricCollection

    Metrics: TypeAlias = Mapping[str, Metric] | Sequence[Metric] | MetricCollection | Metric
    """What `ModelTrainer` takes as metrics."""


def named_metrics(metrics: Metrics | None) -> dict[str, Metric]:
    """Metrics by name; those that were given without one are named after their class.

    Raises:
        OptionError: something is no metric, or two have one name.
    """
    if metrics is None:
        return {}
    from torchmetrics import Metric, MetricCollection

    if isinstance(metrics, MetricCollection):
        return {name: metric for name, metric in metrics.items() if isinstance(metric, Metric)}
    if isinstance(metrics, Metric):
        metrics = [metrics]
    if not isinstance(metrics, (Mapping, Sequence)):
        raise OptionError(f"metrics is {metrics!r}: give metrics of torchmetrics, by name or in a list")
    pairs = metrics.items() if isinstance(metrics, Mapping) else [(type(metric).__name__, metric) for metric in metrics]
    named: dict[str, Metric] = {}
    for name, metric in pairs:
        if not isinstance(metric, Metric):
            raise OptionError(f"the metric {name!r} is {metric!r}, no torchmetrics.Metric")
        if not isinstance(name, str) or not name or name == "loss" or name in named:
            raise OptionError(f"a metric cannot be named {name!r}: names are strings, each once, and 'loss' is taken")
        named[name] = metric
    return named


@dataclass(frozen=True, slots=True)
class MainMetric:
    """The metric that says which model is best."""

    name: str
    """With its split: `dev/accuracy`."""
    higher_is_better: bool

    def rank(self, metrics: Mapping[str, MetricValue]) -> tuple[float, float] | None:
        """How good an epoch is, by its metrics: the larger, the better; of equal scores the one with the lower loss.

        None if it was not evaluated, or the score is NaN.

        Raises:
            UsageError: the main metric is a list of numbers.
        """
        score = metrics.get(self.name, math.nan)
        loss = metrics.get(f"{self.name.partition('/')[0]}/loss", math.nan)
        if isinstance(score, list):
            raise UsageError(f"{self.name} is a list of {len(score)} numbers: models are compared by a single one")
        if math.isnan(score):
            return None
        tie_break = -math.inf if isinstance(loss, list) or math.isnan(loss) else -loss
        return score if self.higher_is_better else -score, tie_break


class BestSoFar:
    """The best rank of an epoch until now, and how long ago that was."""

    def __init__(self) -> None:
        self.bad_epochs = 0
        """Epochs since the best one."""
        self._rank: tuple[float, float] | None = None

    def take(self, rank: tuple[float, float] | None) -> bool:
        """Count an epoch; whether it is the best one. None is the rank of an epoch without a score."""
        is_best = rank is not None and (self._rank is None or rank > self._rank)
        self._rank, self.bad_epochs = (rank, 0) if is_best else (self._rank, self.bad_epochs + 1)
        return is_best

    def state_dict(self) -> dict[str, Any]:
        """For a checkpoint."""
        return {"best": self._rank and list(self._rank), "bad_epochs": self.bad_epochs}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from there."""
        best, self.bad_epochs = state["best"], state["bad_epochs"]
        self._rank = None if best is None else (best[0], best[1])


def main_metric(options: TrainingOptions, metrics: Mapping[str, Metric], splits: Sequence[str]) -> MainMetric | None:
    """The main metric, or None if there is no dev split and none was asked for.

    Args:
        splits: The splits that are evaluated after each epoch.

    Raises:
        OptionError: it is not among those that will be recorded, or does not say whether higher is better.
    """
    directions: dict[str, bool | None] = {"train/loss": False}
    for split in splits:
        directions |= {f"{split}/{name}": metric.higher_is_better for name, metric in metrics.items()}
        directions[f"{split}/loss"] = False
    wanted = options.main_evaluation_metric
    if wanted is None:
        if options.dev_name not in splits:
            return None
        wanted = f"{options.dev_name}/{next(iter(metrics), 'loss')}"
    whole = next((name for name in directions if wanted == name or wanted.startswith(f"{name}/")), None)
    if whole is None:
        raise OptionError(f"main_evaluation_metric is {wanted!r}; what is recorded is {', '.join(directions)}")
    direction = directions[whole]
    if direction is None:
        raise OptionError(f"main_evaluation_metric is {wanted!r}, which does not say whether higher is better")
    return MainMetric(wanted, direction)
