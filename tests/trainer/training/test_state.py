"""The state of a training: losses and counters."""

from __future__ import annotations

import math

import pytest
import torch

from trainwire.training.state import MeanLoss


def test_the_mean_loss_is_weighted_by_samples() -> None:
    """Batches are weighted by their samples, and a sum of many small losses is exact."""
    mean = MeanLoss()
    assert mean.read() is None
    mean.add(torch.tensor(1.0), 3)
    mean.add(torch.tensor(5.0), 1)
    assert mean.read() == 2.0
    for _ in range(10_000):
        mean.add(torch.tensor(0.1), 1)
    assert mean.read() == pytest.approx((8 + 10_000 * 0.1) / 10_004, rel=1e-7)


@pytest.mark.parametrize("loss", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_is_not_hidden(loss: float) -> None:
    """The mean is then NaN or infinite too."""
    mean = MeanLoss()
    mean.add(torch.tensor(1.0), 1)
    mean.add(torch.tensor(loss), 1)
    assert repr(mean.read()) == repr(loss)
