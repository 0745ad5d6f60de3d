"""The loop that trains a model. It does nothing else: everything else hooks into it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

from trainwire.checkpointing.snapshot import Resumption, restore_parts, restore_state
from trainwire.training.control import apply_command
from trainwire.training.distributed import TrainingForward
from trainwire.training.epoch_reader import training_batches
from trainwire.training.evaluation import evaluate
from trainwire.training.hooks.payloads import (
    AfterSetup,
    AfterTrainingEpoch,
    AfterTrainingLoop,
    MetricValue,
    TrainingInterrupt,
)
from trainwire.training.models import FINAL_MODEL, count_parameters, load_model
from trainwire.training.optimizers import learning_rates, set_learning_rates
from trainwire.training.result import Result
from trainwire.training.run import TrainingRun
from trainwire.training.step import training_step
from trainwire_protocol.errors import InterruptedReadingError

if TYPE_CHECKING:
    from trainwire.training.control import Requests
    from trainwire.training.run import TrainingRun
    from trainwire.training.state import EpochState
    from trainwire.training.trainer import ModelTrainer


PAUSE_SECONDS: Final = 0.5
"""How long a paused training sleeps at most before it looks around."""


def act_after_step(trainer: ModelTrainer, run: TrainingRun) -> None:
    """Decide on what is wanted, and do it; several processes do it after the same step."""
    _apply_commands(run)
    _do_and_wait(trainer, run, run.control.decide(run.agreement.after_step))


def act_between_epochs(trainer: ModelTrainer, run: TrainingRun) -> None:
    """Decide on everything that is wanted up to now, and do it; several processes wait for each other."""
    _apply_commands(run)
    _do_and_wait(trainer, run, run.control.decide(run.agreement.now))


def _do_and_wait(trainer: ModelTrainer, run: TrainingRun, wishes: Requests) -> None:
    """Do what is wanted, and then, while a pause is wanted, what is wanted in it."""
    _do(trainer, run, wishes)
    while wishes.pause and not run.control.stopping:
        run.bus.state = "paused"
        run.control.wait(PAUSE_SECONDS)
        _apply_commands(run)
        wishes = run.control.decide(run.agreement.now)
        _do(trainer, run, wishes)
    run.bus.state = "running"


def _apply_commands(run: TrainingRun) -> None:
    for command in run.control.take_commands():
        apply_command(run, command)


def _do(trainer: ModelTrainer, run: TrainingRun, wishes: Requests) -> None:
    control, epoch = run.control, run.state.epoch
    epoch.is_cut = epoch.is_cut or wishes.end_epoch
    if wishes.learning_rate:
        rates = [wishes.learning_rate] * len(learning_rates(run.optimizer))
        set_learning_rates(run, rates, "set by a command")
    if wishes.evaluate and not control.stopping:
        for split in run.watched_splits:
            evaluate(trainer, run, split)
    if run.checkpointer is not None and (wishes.checkpoint or control.interrupted):
        run.checkpointer.save()


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


def finish_model(trainer: ModelTrainer, run: TrainingRun) -> dict[str, MetricValue]:
    """Save the final model; then, unless the run was interrupted, go back to the best one, and test it.

    Returns:
        The metrics of the test split; empty if it was not evaluated.
    """
    if run.options.save_final_model:
        run.save_model(FINAL_MODEL, "final")
    if run.status == "interrupted":  # whoever interrupts does not want to wait for an evaluation
        return {}
    if run.state.best_model is not None and not run.options.use_final_model_for_eval:
        run.processes.wait_for_all()  # one of them has written it
        load_model(run.model, run.folder / run.state.best_model)
    return evaluate(trainer, run, "test") if "test" in run.evaluation_loaders else {}


def result_of(run: TrainingRun, test_metrics: Mapping[str, MetricValue]) -> Result:
    """What came of the run."""
    state = run.state
    return Result(
        status=run.status,
        reason=run.reason,
        folder=run.folder,
        epochs=state.epoch.number,
        steps=state.step,
        best_epoch=state.best_epoch,
        best_score=state.best_score,
        test_score=_test_score(run, test_metrics),
        test_metrics=dict(test_metrics),
        history=tuple(state.history),
    )


def _test_score(run: TrainingRun, test_metrics: Mapping[str, MetricValue]) -> float | None:
    metric = run.main_metric.name.partition("/")[2] if run.main_metric else "loss"
    score = test_metrics.get(f"test/{metric}")
    return score if isinstance(score, float) else None
