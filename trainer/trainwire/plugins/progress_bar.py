"""Shows the progress in the terminal."""

from __future__ import annotations

import time

from trainwire.training.hooks.hooks import hook
from trainwire.training.hooks.payloads import (
    AfterEvaluation,
    AfterSetup,
    AfterTrainingBatch,
    BeforeTrainingEpoch,
    MetricValue,
    TrainingFinally,
)
from trainwire.training.plugin import Plugin
from trainwire_protocol.errors import MissingExtraError

try:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
except ModuleNotFoundError as error:
    raise MissingExtraError("the progress bar", "torch", "rich") from error


class ProgressBar(Plugin):
    """A bar on standard error for the batches of the epoch, with the loss and the last scores.

    Quiet where standard error is no terminal.

    Args:
        seconds: How often the loss is shown; a GPU is waited for then only.
        console: Where to draw, if not on standard error.
    """

    essential = False

    def __init__(self, seconds: float = 0.5, console: Console | None = None) -> None:
        self.seconds = seconds
        self._console = console
        self._progress: Progress | None = None
        self._task = TaskID(0)
        self._shown = 0.0
        self._loss = ""
        self._scores = ""

    @hook
    def after_setup(self, setup: AfterSetup) -> None:  # noqa: ARG002  # every hook has its payload
        """Draw the bar, if somebody can see it."""
        console = self._console or Console(stderr=True)
        if not console.is_terminal:
            return
        self._progress = Progress(
            TextColumn("{task.description}"), BarColumn(16), MofNCompleteColumn(), TimeRemainingColumn(compact=True),
            TextColumn("{task.fields[said]}"), console=console,
        )  # fmt: skip
        self._task = self._progress.add_task("", said="")
        self._progress.start()

    @hook
    def before_training_epoch(self, epoch: BeforeTrainingEpoch) -> None:
        """Start the bar again."""
        if self._progress:
            description = f"epoch {epoch.epoch}/{epoch.max_epochs}"
            self._progress.reset(self._task, total=epoch.batches, description=description)

    @hook
    def after_training_batch(self, batch: AfterTrainingBatch) -> None:
        """Move on; the loss is read now and then."""
        if self._progress:
            if time.monotonic() - self._shown >= self.seconds:
                self._shown = time.monotonic()
                self._loss = f"loss {batch.loss.item():.4g}"  # a GPU is waited for here
            self._progress.update(self._task, completed=batch.number, said=f"{self._loss} {self._scores}")

    @hook
    def after_evaluation(self, evaluation: AfterEvaluation) -> None:
        """Show the scores, and the split's loss if there is nothing else."""
        scores = {name: value for name, value in evaluation.metrics.items() if not name.endswith("/loss")}
        self._scores = " ".join(f"{name} {_short(value)}" for name, value in (scores or evaluation.metrics).items())
        if self._progress:
            self._progress.update(self._task, said=f"{self._loss} {self._scores}")

    @hook
    def training_finally(self, ending: TrainingFinally) -> None:  # noqa: ARG002  # every hook has its payload
        """Leave the terminal as it was."""
        if self._progress:
            self._progress.stop()
            self._progress = None


def _short(value: MetricValue) -> str:
    return "…" if isinstance(value, list) else f"{value:.4g}"
