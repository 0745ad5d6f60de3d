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
    """Return what a training of two epochs draws."""
    drawn = io.StringIO()
    train(folder, ProgressBar(seconds=0.0, console=Console(file=drawn, force_terminal=terminal, width=120)))
    return drawn.getvalue()


def test_a_terminal_shows_epochs_batches_loss_and_scores(tmp_path: Path) -> None:
    """The bar shows the epoch, its batches, the loss, and the latest scores."""
    drawn = draw(tmp_path, terminal=True)
    for part in ("epoch 2/2", "3/3", "loss 0.", "test/accuracy"):
        assert part in drawn


def test_nothing_is_drawn_without_a_terminal(tmp_path: Path) -> None:
    """Nothing is written to a file or pipe."""
    assert draw(tmp_path, terminal=False) == ""


def test_the_terminal_is_restored_after_an_error(tmp_path: Path) -> None:
    """The cursor is shown again after a failure."""
    drawn, trainer = io.StringIO(), make_trainer()

    @trainer.on("after_training_batch")
    def fail(batch: AfterTrainingBatch) -> None:
        raise ValueError("failure of the test")

    with pytest.raises(ValueError, match="failure of the test"):
        train(tmp_path, ProgressBar(console=Console(file=drawn, force_terminal=True)), trainer=trainer)
    hide, show = "\x1b[?25l", "\x1b[?25h"
    assert drawn.getvalue().count(hide) == drawn.getvalue().count(show) > 0
