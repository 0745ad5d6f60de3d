"""The progress bar."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console
from support.tiny_training import make_trainer, train

from trainwire.plugins.progress_bar import ProgressBar
from trainwire.training.hooks.payloads import AfterTrainingBatch


def draw(folder: Path, *, terminal: bool) -> str:
    """What a training of two epochs draws."""
    drawn = io.StringIO()
    train(folder, ProgressBar(seconds=0.0, console=Console(file=drawn, force_terminal=terminal, width=120)))
    return drawn.getvalue()


def test_a_terminal_sees_epochs_batches_loss_and_scores(tmp_path: Path) -> None:
    """The bar shows the last epoch with all its batches, the loss, and the scores of the split evaluated last."""
    drawn = draw(tmp_path, terminal=True)
    for part in ("epoch 2/2", "3/3", "loss 0.", "test/accuracy"):
        assert part in drawn


def test_it_is_quiet_without_a_terminal(tmp_path: Path) -> None:
    """Into a file or pipe it writes nothing."""
    assert draw(tmp_path, terminal=False) == ""


def test_the_terminal_is_restored_after_an_error(tmp_path: Path) -> None:
    """The cursor is shown again, whatever ends the training."""
    drawn, trainer = io.StringIO(), make_trainer()

    @trainer.on("after_training_batch")
    def fail(batch: AfterTrainingBatch) -> None:
        raise ValueError("no such luck")

    with pytest.raises(ValueError, match="no such luck"):
        train(tmp_path, ProgressBar(console=Console(file=drawn, force_terminal=True)), trainer=trainer)
    hide, show = "\x1b[?25l", "\x1b[?25h"
    assert drawn.getvalue().count(hide) == drawn.getvalue().count(show) > 0
