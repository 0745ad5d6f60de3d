"""The loop that trains a model. It does nothing else: everything else hooks into it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trainwire.acting import act_after_step, act_between_epochs
from trainwire.evaluation import evaluate
from trainwire.models import count_parameters
from trainwire.parallel import TrainingForward
from trainwire.payloads import AfterSetup, AfterTrainingEpoch, AfterTrainingLoop, TrainingInterrupt
from trainwire.reading import InterruptedReadingError, training_batches
from trainwire.snapshot import Resumption, restore_parts, restore_state
from trainwire.step import training_step

if TYPE_CHECKING:
    from trainwire.run import TrainingRun
    from trainwire.state import EpochState
    from trainwire.trainer import ModelTrainer


def train_epochs(trainer: ModelTrainer, run: TrainingRun, resumption: Resumption | None) -> None:
    """Train from the beginning, or from where a training is resumed, until all epochs are over or someone stops it."""
    run.hooks.dispatch(AfterSetup(run.device, count_parameters(run.model), run.split_sizes))
    if resumption:
        _restore(run, resumption)
    run.forward = TrainingForward(run.model, trainer.forward, several=run.processes.several)
    act_between_epochs(trainer, run)
    while run.goes_on:
        _train_epoch(trainer, run)
        if not run.control.stopping:
            act_between_epochs(trainer, run)
    run.end(*run.ending)
    if run.control.interrupted:
        run.hooks.dispatch_to_all(TrainingInterrupt(run.reason))
    else:
        run.hooks.dispatch_to_all(AfterTrainingLoop(run.reason, run.state.epoch.number, run.state.step))


def _train_epoch(trainer: ModelTrainer, run: TrainingRun) -> None:
    """Train an epoch, or the rest of a resumed one, and evaluate it."""
    is_resumed = run.state.epoch.is_open
    with run.epoch() as epoch:
        if not is_resumed:
            run.hooks.dispatch(run.epoch_begins)
        run.model.train()
        _train_batches(trainer, run, epoch)
        run.record_training_metrics()
        if not run.control.stopping:
            for split in run.watched_splits:
                epoch.metrics |= evaluate(trainer, run, split)
        run.hooks.dispatch(
            AfterTrainingEpoch(epoch.number, epoch.max_epochs, epoch.complete, epoch.seconds, epoch.metrics)
        )


def _train_batches(trainer: ModelTrainer, run: TrainingRun, epoch: EpochState) -> None:
    try:
        for epoch.batch, batch in training_batches(run):
            training_step(run, batch)
            act_after_step(trainer, run)
            if run.epoch_is_over:
                return
    except InterruptedReadingError:
        act_after_step(trainer, run)
        return
    epoch.exhausted = not run.epoch_is_over


def _restore(run: TrainingRun, resumption: Resumption) -> None:
    """Bring back where the training was; what plugins do at an epoch's beginning is done before, and undone."""
    restore_state(run, resumption)
    if run.state.epoch.is_open:
        run.hooks.dispatch(run.epoch_begins)
    restore_parts(run, resumption)
