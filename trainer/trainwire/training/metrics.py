"""Metrics: their names, their values, and the main metric, by which models are compared."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from numbers import Real
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias

from trainwire.training.hooks.payloads import MetricValue
from trainwire.training.options.options import TrainingOptions
from trainwire_protocol.errors import OptionError, UsageError

if TYPE_CHECKING:
    from torchmetrics import Metric, MetricCollection

    Metrics: TypeAlias = Mapping[str, Metric] | Sequence[Metric] | MetricCollection | Metric
    """What `ModelTrainer` takes as metrics."""

Rank: TypeAlias = tuple[float, float]
"""The score of an epoch, negated if lower is better, and its negated loss."""

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


@contextmanager
def computed_alone(metrics: Iterable[Metric]) -> Iterator[None]:
    """Return a context in which metrics, and those inside them, are computed without the other processes.

    Otherwise they wait for each other as soon as there is a process group.
    """
    from torchmetrics import Metric

    parts = [part for each in metrics for part in each.modules() if isinstance(part, Metric)]
    before = [part._to_sync for part in parts]
    try:
        for part in parts:
            part._to_sync = False
        yield
    finally:
        for part, is_synchronized in zip(parts, before, strict=True):
            part._to_sync = is_synchronized


def read_metric(name: str, value: object) -> dict[str, MetricValue]:
    """Return a computed metric as one number, a list with one for each class, or one for each key of a map."""
    if isinstance(value, Mapping):
        return {
            key: part for label, item in value.items() for key, part in read_metric(f"{name}/{label}", item).items()
        }
    numbers = as_metric_value(value)
    if numbers is None:
        logger.warning("the metric %s is not recorded: it is neither a number nor a list of numbers", name)
        return {}
    return {name: numbers}


def as_metric_value(value: object) -> MetricValue | None:
    """Return numbers of Python, NumPy or torch as a float or a list of floats, or None if the value is neither.

    Synchronizes with the GPU if the value is a tensor there.
    """
    if hasattr(value, "tolist"):  # a tensor, or a number or an array of NumPy
        value = value.tolist()
    if isinstance(value, Real):
        return float(value)
    if isinstance(value, (list, tuple)) and all(isinstance(item, Real) for item in value):
        return [float(item) for item in value]
    return None


def format_metric(value: MetricValue) -> str:
    """Return a metric's numbers with four significant digits, so that 5e-5 is not shown as 0.0001."""
    return ", ".join(f"{number:.4g}" for number in (value if isinstance(value, list) else [value]))


@dataclass(frozen=True, slots=True)
class MainMetric:
    """The metric by which models are compared."""

    name: str
    """Includes the split: `dev/accuracy`."""
    higher_is_better: bool | None
    """None if that is not known: then epochs cannot be compared."""

    def __str__(self) -> str:
        """Return the name and the direction: `dev/accuracy (max)`."""
        return f"{self.name} ({self.mode})"

    @property
    def mode(self) -> Literal["max", "min"] | None:
        """The direction, as torch's schedulers call it."""
        return None if self.higher_is_better is None else "max" if self.higher_is_better else "min"

    def check_direction(self) -> None:
        """Check that it is known whether higher is better.

        Raises:
            OptionError: if it is not.
        """
        if self.higher_is_better is None:
            raise OptionError(
                f"the main metric {self.name} does not define whether higher is better: set main_evaluation_mode to "
                "'max' or 'min', or main_evaluation_metric to another metric"
            )

    def score(self, metrics: Mapping[str, MetricValue]) -> float | None:
        """Return the score in an epoch's metrics; None if the epoch was not evaluated.

        Raises:
            UsageError: if the main metric is a list of numbers.
        """
        score = metrics.get(self.name)
        if isinstance(score, list):
            raise UsageError(f"{self.name} is a list of {len(score)} numbers: the main metric must be a single number")
        return None if score is None else float(score)

    def rank(self, metrics: Mapping[str, MetricValue]) -> Rank | None:
        """Return a sort key for an epoch's metrics: larger is better; among equal scores, the lower loss is better.

        Returns None if the epoch was not evaluated, or the score is NaN.

        Raises:
            UsageError: if the main metric is a list of numbers.
            OptionError: if its direction is not known.
        """
        self.check_direction()
        score = self.score(metrics)
        if score is None or math.isnan(score):
            return None
        loss = metrics.get(f"{self.name.partition('/')[0]}/loss", math.nan)
        tie_break = -math.inf if isinstance(loss, list) or math.isnan(loss) else -loss
        return score if self.higher_is_better else -score, tie_break


TRAINING_LOSS: Final = MainMetric("train/loss", higher_is_better=False)
"""What schedules compare if there is no main metric."""


class BestSoFar:
    """The best rank of all epochs so far, and the number of epochs since.

    Args:
        min_delta: By how much a score must exceed the best one to be better. If it is 0, of two equal scores the one
            with the lower loss is better.
    """

    def __init__(self, min_delta: float = 0.0) -> None:
        self.min_delta = min_delta
        self.bad_epochs = 0
        """Epochs since the best one."""
        self._rank: Rank | None = None

    def update(self, rank: Rank | None) -> bool:
        """Count an epoch with this rank, or None if it has no score, and return whether it is the best so far."""
        is_best = rank is not None and (self._rank is None or self._exceeds(rank, self._rank))
        self._rank, self.bad_epochs = (rank, 0) if is_best else (self._rank, self.bad_epochs + 1)
        return is_best

    def _exceeds(self, rank: Rank, best: Rank) -> bool:
        return rank[0] - self.min_delta > best[0] if self.min_delta else rank > best

    def state_dict(self, main: MainMetric | None) -> dict[str, Any]:
        """Return the rank, by the given metric, and the count."""
        return {"metric": str(main), "best": self._rank and list(self._rank), "bad_epochs": self.bad_epochs}

    def load_state_dict(
        self, state: Mapping[str, Any], main: MainMetric | None, history: Sequence[Mapping[str, MetricValue]]
    ) -> None:
        """Restore what `state_dict` returned; if it is about another metric, start from the best epoch by this one.

        Args:
            main: The metric by which epochs are compared from now on.
            history: The metrics of each epoch so far.
        """
        if state["metric"] == str(main):
            best, self.bad_epochs = state["best"], state["bad_epochs"]
            self._rank = None if best is None else (best[0], best[1])
        else:
            ranks = [main.rank(epoch) for epoch in history] if main else []
            self._rank, self.bad_epochs = max((rank for rank in ranks if rank is not None), default=None), 0


def checked_min_delta(owner: str, value: float) -> float:
    """Return the least difference between scores that a plugin regards as an improvement.

    Raises:
        OptionError: if it is not a finite number of at least 0.
    """
    number = as_metric_value(value)
    if not isinstance(number, float) or not 0 <= number < math.inf:
        raise OptionError(f"{owner}: min_delta is {value!r}; it must be a finite number of at least 0")
    return number


def main_metric(options: TrainingOptions, metrics: Mapping[str, Metric], splits: Sequence[str]) -> MainMetric | None:
    """Return the main metric, or None if there is no dev split and none was requested.

    Its direction is `main_evaluation_mode`, or else what the metric says; for losses, lower is better.

    Args:
        splits: The splits that are evaluated after each epoch.

    Raises:
        OptionError: if the requested metric is not recorded, or a direction is given without a main metric.
    """
    mode = options.main_evaluation_mode
    directions: dict[str, bool | None] = {"train/loss": False}
    for split in splits:
        directions |= {f"{split}/{name}": metric.higher_is_better for name, metric in metrics.items()}
        directions[f"{split}/loss"] = False
    name = options.main_evaluation_metric
    if name is None:
        if options.dev_name not in splits:
            if mode is not None:
                raise OptionError(f"main_evaluation_mode is {mode!r}, but there is no main metric: pass dev=")
            return None
        name = f"{options.dev_name}/{next(iter(metrics), 'loss')}"
    bases = [known for known in directions if f"{name}/".startswith(f"{known}/")]
    if not bases:
        raise OptionError(f"main_evaluation_metric is {name!r}; the recorded metrics are {', '.join(directions)}")
    return MainMetric(name, directions[max(bases, key=len)] if mode is None else mode == "max")
