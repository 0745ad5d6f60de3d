"""The states of plugins in checkpoints."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from support.tiny_training import train

from trainwire import Plugin, hook
from trainwire.plugins.anomaly_guard import AnomalyGuard
from trainwire.plugins.early_stopping import EarlyStopping
from trainwire.plugins.ema import EMA
from trainwire.plugins.metric_history import MetricHistory
from trainwire.plugins.model_card import ModelCard
from trainwire.plugins.swa import SWA
from trainwire.training.hooks.payloads import AfterTrainingEpoch

MAKERS: list[Callable[[], Plugin]] = [
    AnomalyGuard, EarlyStopping, EMA, MetricHistory, ModelCard, lambda: SWA(1, learning_rate=0.05),
]  # fmt: skip


@pytest.mark.parametrize("make", MAKERS)
def test_a_state_can_be_loaded_with_weights_only(tmp_path: Path, make: Callable[[], Plugin]) -> None:
    """A state is equal after it was saved and loaded with `weights_only`, which executes no code."""

    class Saves(Plugin):
        @hook
        def after_training_epoch(self, epoch: AfterTrainingEpoch) -> None:
            torch.save(plugin.state_dict(), tmp_path / "state.pt")
            loaded = torch.load(tmp_path / "state.pt", weights_only=True)
            plugin.load_state_dict(loaded)
            assert repr(plugin.state_dict()) == repr(loaded)

    plugin = make()
    train(tmp_path / "run", plugin, Saves(), max_epochs=1, attach_default_scheduler=False)
    assert (tmp_path / "state.pt").exists()
