"""Logs the start, the progress, the epochs and the end of a training.

Records that repeat a lifecycle event are marked `ON_THE_WIRE`: the program's log handlers receive them, but the bus
does not publish them again.
"""

from __future__ import annotations

import logging
import math
import time
from typing import Final

from trainwire.training.hooks.hooks import hook
from trainwire.training.hooks.payloads import (
    AfterEvaluation,
    AfterSetup,
    AfterStepEvaluation,
    AfterTrainingBatch,
    AfterTrainingEpoch,
    BeforeTrainingEpoch,
    TrainingException,
    TrainingFinally,
)
from trainwire.training.metrics import format_metric
from trainwire.training.model.models import count_parameters, name_of
from trainwire.training.model.optimizers import classes_of
from trainwire.training.plugin import Plugin, describe_rates, describe_schedule
from trainwire_protocol.errors import OptionError

ON_THE_WIRE: Final = {"on_the_wire": True}

logger = logging.getLogger("trainwire")


class RegularLogging(Plugin):
    """Logs the start, the progress, the results of each epoch and the end to the logger `trainwire`.

    Args:
        lines_per_epoch: The maximum number of progress lines in an epoch. Each of them synchronizes with the GPU.
        batches_per_line: The number of batches between progress lines if the length of the epoch is unknown.
        steps: Log a progress line after every so many updates instead; 0: do not.

    Raises:
        OptionError: if a number is out of range.
    """

    def __init__(self, lines_per_epoch: int = 10, batches_per_line: int = 100, *, steps: int = 0) -> None:
        if lines_per_epoch < 1 or batches_per_line < 1 or steps < 0:
            raise OptionError(
                "RegularLogging: lines_per_epoch and batches_per_line must be at least 1, and steps at least 0"
            )
        self.lines_per_epoch, self.batches_per_line, self.steps = lines_per_epoch, batches_per_line, steps
        self._interval = 1
        self._number = 0
        """The number of the last batch of the latest update."""
        self._samples = 0
        self._since = 0.0

    @hook
    def after_setup(self, setup: AfterSetup) -> None:
        """Log the model, the data and the optimizer."""
        run, model = self.run, name_of(self.run.model)
        logger.info("model: %s with %s trainable parameters, on %s", model, f"{setup.parameters:,}", setup.device)
        if run.modules.loss is not None:
            own = count_parameters(run.modules) - count_parameters(run.model)
            logger.info("loss: %s with %s trainable parameters of its own", name_of(run.modules.loss), f"{own:,}")
        logger.info("samples: %s", ", ".join(f"{name} {size}" for name, size in setup.split_sizes.items()))
        logger.info("optimizer: %s, learning rate %s", classes_of(run.optimizers), self._learning_rate())
        logger.info("learning rate schedule: %s", describe_schedule(run.plugins))
        if run.main_metric:
            logger.info("the best model is chosen by %s", run.main_metric.name)

    @hook
    def before_training_epoch(self, epoch: BeforeTrainingEpoch) -> None:
        """Start to measure the speed."""
        self._interval = math.ceil(epoch.batches / self.lines_per_epoch) if epoch.batches else self.batches_per_line
        self._number = self.run.state.epoch.batch  # not 0 in a resumed epoch
        self._start_line()

    @hook
    def after_training_batch(self, batch: AfterTrainingBatch) -> None:
        """Log the progress at regular intervals."""
        self._samples += batch.samples
        before, self._number = self._number, batch.number
        if self.steps:
            is_due = batch.step % self.steps == 0
        else:
            is_due = before // self._interval != batch.number // self._interval
        if not is_due:
            return
        loss = self.run.state.epoch.loss.read()  # synchronizes with the GPU
        rate = self._samples / max(1e-9, time.monotonic() - self._since)
        logger.info(
            "epoch %d: batch %d/%s, loss %s, %.0f samples/s, learning rate %s",
            batch.epoch, batch.number, batch.batches or "?", format_metric(math.nan if loss is None else loss), rate,
            self._learning_rate(),
        )  # fmt: skip
        self._start_line()

    @hook
    def after_evaluation(self, evaluation: AfterEvaluation) -> None:
        """Log the scores of a split."""
        scores = "; ".join(f"{name} {format_metric(value)}" for name, value in evaluation.metrics.items())
        logger.info("evaluation: %s (%.1f s)", scores, evaluation.seconds, extra=ON_THE_WIRE)

    @hook
    def after_step_evaluation(self, evaluation: AfterStepEvaluation) -> None:
        """Log the results of an evaluation within the epoch, and whether its model is the best so far."""
        logger.info(
            "epoch %d, step %d evaluated: train loss %s, learning rate %s, bad evaluations %d",
            evaluation.epoch, evaluation.step, format_metric(evaluation.metrics.get("train/loss", math.nan)),
            self._learning_rate(), self.run.state.bad_epochs,
            extra=ON_THE_WIRE,
        )  # fmt: skip
        self._report_best_model()

    @hook
    def after_training_epoch(self, epoch: AfterTrainingEpoch) -> None:
        """Log the results of the epoch, and whether its model is the best so far."""
        state = self.run.state
        self._report_nonfinite_loss(epoch)
        logger.info(
            "epoch %d/%s %s: train loss %s, learning rate %s, bad %s %d (%.1f s)",
            epoch.epoch, epoch.max_epochs or "?", "finished" if epoch.complete else "cut short",
            format_metric(epoch.metrics.get("train/loss", math.nan)), self._learning_rate(), self.run.compared,
            state.bad_epochs, epoch.seconds,
            extra=ON_THE_WIRE,
        )  # fmt: skip
        if not epoch.repeated:
            self._report_best_model()

    @hook
    def training_exception(self, failure: TrainingException) -> None:
        """Log the error that ends the training."""
        logger.error("the training failed", exc_info=failure.error)

    @hook
    def training_finally(self, ending: TrainingFinally) -> None:
        """Log how the training ended."""
        epochs, steps = sum(each.ends_epoch for each in self.run.state.history), self.run.state.step
        message = "training %s after %d epochs and %d steps: %s"
        logger.info(message, ending.status, epochs, steps, ending.reason, extra=ON_THE_WIRE)

    def _report_nonfinite_loss(self, epoch: AfterTrainingEpoch) -> None:
        """Report a mean loss that is not finite, unless a plugin checks the loss of each step."""
        loss = epoch.metrics.get("train/loss", 0.0)
        if isinstance(loss, float) and not math.isfinite(loss) and not self.run.checks_each_loss:
            anomaly = {"what": "train/loss", "kind": "not finite", "step": self.run.state.step, "value": loss}
            self.run.publish("anomaly/detected", {**anomaly, "median": None, "action": "continue"})
            hint = "the plugin AnomalyGuard can stop at such a step or skip it"
            logger.warning("the mean loss of epoch %d is %s; %s", epoch.epoch, loss, hint)

    def _report_best_model(self) -> None:
        state, main = self.run.state, self.run.main_metric
        is_best = (state.best_epoch, state.best_step) == (state.epoch.number, state.step)
        if main and is_best and state.best_score is not None:
            logger.info("best model saved: %s %s", main.name, format_metric(state.best_score), extra=ON_THE_WIRE)

    def _start_line(self) -> None:
        self._samples, self._since = 0, time.monotonic()

    def _learning_rate(self) -> str:
        return describe_rates(self.run.optimizers)
