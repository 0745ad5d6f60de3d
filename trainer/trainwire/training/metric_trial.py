"""The trial of the metrics: a mistake is found at the first training batch, and not after the first epoch."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Mapping
from contextlib import suppress
from typing import TYPE_CHECKING

import torch

from trainwire.training.data.failures import with_notes
from trainwire.training.forward import Forward
from trainwire.training.hooks.payloads import MetricValue
from trainwire.training.metrics import MainMetric, computed_alone, read_metric
from trainwire.training.state import random_states, restore_random_states
from trainwire_protocol.errors import UsageError

if TYPE_CHECKING:
    from torchmetrics import Metric

logger = logging.getLogger("trainwire")


def try_metrics(metrics: Mapping[str, Metric], main: MainMetric | None, forward: Forward) -> None:
    """Update copies of the metrics with a training batch's output and target, and compute them.

    A metric that fails is only reported, since the model may return something else in evaluation.

    Raises:
        UsageError: if the main metric is not a single number.
    """
    before = random_states()
    try:
        values: dict[str, MetricValue] = {}
        for name, metric in metrics.items():
            values |= _try(name, metric, forward)
    finally:
        restore_random_states(before)
    if main is not None:
        _check_main_metric(main, values)


def _try(name: str, metric: Metric, forward: Forward) -> dict[str, MetricValue]:
    """Return what would be recorded of the metric; nothing if it fails, or cannot be computed for so few samples."""
    copy = metric.clone()
    copy.reset()
    try:
        with torch.no_grad():
            copy.update(forward.output, forward.target)
    except Exception as error:
        logger.warning(
            "the metric %s failed on the first training batch; it fails in evaluation too, unless the model returns "
            "something else there, or a hook has changed the batch: %s",
            name, with_notes(error),
        )  # fmt: skip
        return {}
    # Other processes may have failed.
    with computed_alone([copy]), suppress(Exception), warnings.catch_warnings(action="ignore"):
        return read_metric(name, copy.compute())
    return {}


def _check_main_metric(main: MainMetric, values: Mapping[str, MetricValue]) -> None:
    split, _, name = main.name.partition("/")
    parts = [f"{split}/{key}" for key in values if key.startswith(f"{name}/")]
    if parts and name not in values:
        raise UsageError(f"{main.name} is several numbers: set main_evaluation_metric to {' or '.join(parts)}")
    if isinstance(values.get(name), list):
        raise UsageError(f"{main.name} is a list of numbers: the main metric must be a single number")
