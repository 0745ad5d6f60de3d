"""Shows the progress of the epoch in the terminal."""

from __future__ import annotations

import time

from trainwire.training.hooks.hooks import hook
from trainwire.training.hooks.payloads import (
    AfterEvaluation,
    AfterSetup,
    AfterTrainingBatch,
    BeforeTrainingEpoch,
    TrainingFinally,
)
from trainwire.training.metrics import format_metric
from trainwire.training.plugin import Plugin, describe_rates, describe_schedule
from trainwire_protocol.errors import MissingExtraError

try:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
except ModuleNotFoundError as error:
    raise MissingExtraError("the progress bar", "torch", "rich") from error


class ProgressBar(Plugin):
    """Shows a progress bar of the batches of the epoch, with the loss and the latest scores, on standard error.

    Nothing is shown if standard error is not a terminal, or in a process other than the first.

    Args:
        seconds: The minimum time between updates. Each update synchronizes with the GPU.
        console: The console to draw on, instead of standard error.
    """

    essential = False

    def __init__(self, seconds: float = 0.5, console: Console | None = None) -> None:
        self.seconds = seconds
        self._console = console
        self._progress: Progress | None = None
        self._task = TaskID(0)
        self._last_update = 0.0
        self._loss = ""
        self._scores = ""

    @hook
    def after_setup(self, setup: AfterSetup) -> None:
        """Show the schedule and the bar, if the console is a terminal."""
        console = self._console or Console(stderr=True)
        if not console.is_terminal or not self.run.processes.is_first:
            return
        rates = describe_rates(self.run.optimizers)
        console.print(f"learning rate {rates}: {describe_schedule(self.run.plugins)}", highlight=False, markup=False)
        self._progress = Progress(
            TextColumn("{task.description}"), BarColumn(16), MofNCompleteColumn(), TimeRemainingColumn(compact=True),
            TextColumn("{task.fields[metrics]}"), console=console,
        )  # fmt: skip
        self._task = self._progress.add_task("", metrics="")
        self._progress.start()

    @hook
    def before_training_epoch(self, epoch: BeforeTrainingEpoch) -> None:
        """Restart the bar for the epoch."""
        if self._progress:
            description = f"epoch {epoch.epoch}/{epoch.max_epochs or '?'}"
            self._progress.reset(self._task, total=epoch.batches, description=description)

    @hook
    def after_training_batch(self, batch: AfterTrainingBatch) -> None:
        """Advance the bar and update the loss, if it is time or the epoch's last batch."""
        if self._progress and (batch.number == batch.batches or time.monotonic() - self._last_update >= self.seconds):
            self._last_update = time.monotonic()
            self._loss = f"loss {format_metric(batch.loss.item())}"  # synchronizes with the GPU
            self._progress.update(self._task, completed=batch.number, metrics=f"{self._loss} {self._scores}")

    @hook
    def after_evaluation(self, evaluation: AfterEvaluation) -> None:
        """Show the scores, or the loss of a split without scores."""
        scores = {name: value for name, value in evaluation.metrics.items() if not name.endswith("/loss")}
        shown = (scores or evaluation.metrics).items()
        self._scores = " ".join(
            f"{name} {'…' if isinstance(value, list) else format_metric(value)}" for name, value in shown
        )
        if self._progress:
            self._progress.update(self._task, metrics=f"{self._loss} {self._scores}")

    @hook
    def training_finally(self, ending: TrainingFinally) -> None:
        """Restore the terminal."""
        if self._progress:
            self._progress.stop()
            self._progress = None
