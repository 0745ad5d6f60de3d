"""Processes that train together exchange the weights of their losses only if each of them has some."""

from __future__ import annotations

import pytest
import torch
from support.tiny_training import linear

from trainwire import Forward
from trainwire.training.distributed.processes import Processes
from trainwire.training.forward import TrainingForward
from trainwire.training.model.parameters import TrainedModules


class WithAnother(Processes):
    """This process and another one, which has no weight."""

    def gather(self, value: int) -> list[int]:
        return [value, 0]


@pytest.mark.parametrize("weight", [3.0, None])
def test_a_weight_that_another_process_lacks_is_not_used(
    caplog: pytest.LogCaptureFixture, weight: float | None
) -> None:
    """Otherwise one would wait for the other's weight. A warning tells that batches are weighted by samples."""
    result = Forward(torch.zeros(()), weight=weight)
    forward = TrainingForward(
        TrainedModules(linear(), None), lambda _: result, lambda *_: result, processes=WithAnother(world_size=2)
    )
    for _ in range(2):
        used = forward(None)
        assert used is not None
        assert used.weight is None
    assert not forward.has_weight("")
    assert len([record for record in caplog.records if "weighted by their samples" in record.message]) == (
        weight is not None
    )
