"""Saves checkpoints from which a training can be resumed."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from typing import Any, Final

from trainwire.bus.logging_context import in_this_context
from trainwire.checkpointing.checkpoint import FOLDER, list_checkpoints
from trainwire.checkpointing.snapshot import check_snapshot, keep_best_model, take_snapshot
from trainwire.checkpointing.writer import CheckpointWriter
from trainwire.training.hooks.hooks import hook
from trainwire.training.hooks.payloads import (
    AfterSetup,
    AfterTrainingBatch,
    AfterTrainingEpoch,
    BeforeTrainingEpoch,
    TrainingFinally,
)
from trainwire.training.plugin import Plugin
from trainwire_protocol.errors import OptionError, UsageError

logger = logging.getLogger("trainwire")

CLOSE_SECONDS: Final = 60.0
"""How long to wait at the end until the last checkpoint is written."""

CLOSE_SECONDS_OF_SHARDS: Final = 1800.0
"""The same for a sharded model, unless the training failed: the processes write their parts together."""


class Checkpoints(Plugin):
    """Saves everything that `train(resume=True)` needs, in `checkpoints/` of the run's folder.

    The training waits while the state is copied in memory, and does not wait for the disk. A checkpoint is also saved
    when a training ends or is interrupted, and when `run.control.checkpoint()` or `trainwire send` requests one.

    Args:
        epochs: Save after this number of epochs; 0 disables it, as for `steps` and `minutes`.
        steps: Save after this number of updates.
        minutes: Save when this time has passed since the last checkpoint.
        keep_last: How many of the latest checkpoints to keep.
        keep_best: How many further checkpoints to keep: those at the end of the epochs with the best main metric.

    Raises:
        OptionError: if a number is out of range.
    """

    def __init__(
        self, *, epochs: int = 0, steps: int = 0, minutes: float = 0.0, keep_last: int = 2, keep_best: int = 0
    ) -> None:
        if min(epochs, steps, minutes, keep_best) < 0 or keep_last < 1:
            raise OptionError(
                "Checkpoints: epochs, steps, minutes and keep_best must be at least 0, keep_last at least 1"
            )
        self.epochs, self.steps, self.minutes = epochs, steps, minutes
        self.keep_last, self.keep_best = keep_last, keep_best
        self._writer: CheckpointWriter | None = None
        self._saved_at = 0.0
        self._position: tuple[object, ...] = ()
        self._is_checked = False

    @property
    def compares_epochs(self) -> bool:  # type: ignore[override]  # an instance's choice
        """Whether it keeps the checkpoints of the best epochs."""
        return self.keep_best > 0

    @hook
    def after_setup(self, setup: AfterSetup) -> None:
        """Start the writing thread."""
        group = self.run.sharding.group if self.run.sharding else None
        self._writer = CheckpointWriter(self.run.bus, self.run.folder, self._delete_old, group)
        in_this_context(self._writer).start()
        self._saved_at, self._is_checked, self._position = time.monotonic(), False, ()
        if self.run.train_loader.persistent_workers:
            logger.info("train has persistent workers: their random numbers are not resumed exactly")

    @hook
    def before_training_epoch(self, epoch: BeforeTrainingEpoch) -> None:
        """Check before the first epoch that everything can be saved, now that all plugins are set up."""
        if not self._is_checked:
            check_snapshot(self.run)
            self._is_checked = True

    @hook
    def after_training_batch(self, batch: AfterTrainingBatch) -> None:
        """Request a checkpoint if one is due."""
        is_due = self.minutes and time.monotonic() - self._saved_at >= 60 * self.minutes
        if is_due or (self.steps and batch.step % self.steps == 0):
            self.run.control.checkpoint()

    @hook
    def after_training_epoch(self, epoch: AfterTrainingEpoch) -> None:
        """Request a checkpoint if one is due."""
        if self.epochs and epoch.complete and epoch.epoch % self.epochs == 0:
            self.run.control.checkpoint()

    def save_checkpoint(self) -> None:
        """Take a snapshot and submit it to the writing thread: called by the loop between two steps."""
        if self._writer is None or (self.run.reason and self._position == self._position_now()):
            return  # or the training has ended, and nothing has changed since the last checkpoint
        if self.run.sharding is not None:
            self._writer.wait_until_idle()  # all processes write the same checkpoints, and none is dropped
        self._saved_at = time.monotonic()
        try:
            snapshot = take_snapshot(self.run)
        except UsageError as error:  # something that was not there before the first epoch
            if self.run.sharding is not None:  # the other processes would wait for this one's part
                raise
            logger.error("the checkpoint of step %d could not be saved: %s", self.run.state.step, error)
            return
        if self.run.processes.is_first:
            keep_best_model(self.run, self.run.folder / FOLDER / snapshot.label.name)
        self._writer.submit(snapshot)
        if self.run.sharding is not None and self.run.device.type == "cpu":
            # The training and the writing thread would both use gloo then, and a process has crashed in malloc.
            self._writer.wait_until_idle()
        self._position = self._position_now()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Note that there is a checkpoint of the current position."""
        self._position = self._position_now()

    def _position_now(self) -> tuple[object, ...]:
        state = self.run.state
        return state.step, state.epoch.number, state.epoch.is_open, self.run.control.stop_reason or state.stopped

    @hook
    def training_finally(self, ending: TrainingFinally) -> None:
        """Wait until the last checkpoint is written."""
        if self._writer is not None:
            is_sharded = self.run.sharding is not None and ending.status != "failed"
            self._writer.close(CLOSE_SECONDS_OF_SHARDS if is_sharded else CLOSE_SECONDS)
            self._writer = None

    def _delete_old(self) -> None:
        """Delete all checkpoints but the latest and the best: called on the writing thread."""
        if not self.run.processes.is_first:
            return
        checkpoints = list_checkpoints(self.run.folder)
        main = str(self.run.main_metric)
        scored = [
            (each.label.score, each)
            for each in checkpoints
            if each.label.score is not None
            and (each.label.main_metric, each.label.first_attempt) == (main, self.run.first_attempt)
        ]
        best = [checkpoint for _, checkpoint in sorted(scored, key=lambda pair: pair[0], reverse=True)]
        kept = checkpoints[: self.keep_last] + best[: self.keep_best]
        for checkpoint in checkpoints:
            if checkpoint not in kept:
                checkpoint.delete()
                path = f"{FOLDER}/{checkpoint.folder.name}"
                self.run.bus.publish("checkpoint/deleted", {"path": path}, "lifecycle")
