"""What came of a training."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from trainwire.training.hooks.payloads import MetricValue, Status


@dataclass(frozen=True, slots=True)
class Result:
    """What `ModelTrainer.train` returns."""

    status: Status
    """"finished", also if a plugin stopped it; "interrupted" by a signal."""
    reason: str
    """Why the training ended."""
    folder: Path
    """The run's folder."""
    epochs: int
    """Epochs begun."""
    steps: int
    """Optimizer updates made."""
    best_epoch: int | None
    """The epoch with the best main metric, from 1; None if there was nothing to choose by."""
    best_score: float | None
    """The main metric in that epoch."""
    test_score: float | None
    """What the main metric's counterpart is on the test split, at the end."""
    test_metrics: Mapping[str, MetricValue]
    """All metrics of the test split, at the end; empty if it was not evaluated."""
    history: tuple[Mapping[str, MetricValue], ...]
    """The metrics of each epoch, in order."""
