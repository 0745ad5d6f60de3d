"""The training loop: start, epochs, steps, requests and end. Everything else is attached to it by hooks."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final

from trainwire.training.command_handler import apply_command
from trainwire.training.control import Requests
from trainwire.training.epoch_reader import EpochReader
from trainwire.training.evaluation import evaluate
from trainwire.training.hooks.payloads import (
    AfterSetup,
    AfterStepEvaluation,
    AfterTraining,
    AfterTrainingEpoch,
    AfterTrainingLoop,
    BeforeTrainingEpoch,
    EpochMetrics,
    MetricValue,
    Result,
    TrainingInterrupt,
)
from trainwire.training.model.models import FINAL_MODEL, count_parameters
from trainwire.training.model.optimizers import optimizer_metrics
from trainwire.training.run import Resumption, TrainingRun
from trainwire.training.session import ending_hooks
from trainwire.training.step import training_step
from trainwire_protocol.errors import InterruptedReadingError

PAUSE_SECONDS: Final = 0.5
"""How long a paused training waits before it checks again."""


def train_model(run: TrainingRun, resumption: Resumption | None) -> Result:
    """Train until all epochs are over or the training is stopped, then save and test the model."""
    with ending_hooks(run):
        reader = EpochReader(run)
        _start(run, resumption)
        while run.continues:
            _train_epoch(run, reader)
            if not run.control.stopping:
                _handle_requests(run, run.agreement.now)
        reader.close()
        test_metrics = _end(run)
    result = run.result(test_metrics)
    run.hooks.dispatch_to_all(AfterTraining(result))
    return result


def _start(run: TrainingRun, resumption: Resumption | None) -> None:
    run.modes.warn_of_evaluation()
    run.hooks.dispatch(AfterSetup(run.device, count_parameters(run.modules), run.split_sizes))
    if resumption:
        resumption.restore_progress(run)
        if run.state.epoch.is_open:
            _announce_epoch(run)  # before plugins are restored, so that what they do here is replaced
        resumption.restore_parts(run)
    if run.processes.several and run.sharding is None:
        run.forward.distribute(run.options.ddp_arguments)
    _handle_requests(run, run.agreement.now)


def _train_epoch(run: TrainingRun, reader: EpochReader) -> None:
    """Train an epoch, or the rest of a resumed one, and evaluate it."""
    is_resumed = run.state.epoch.is_open
    with run.epoch() as epoch:
        if not is_resumed:
            _announce_epoch(run)
        run.update_parameters(thorough=True)
        run.modes.keep()
        _train_batches(run, reader)
        run.record_training_metrics()
        repeated = run.state.is_evaluated_within_epoch
        if not run.control.stopping:
            if repeated:
                epoch.metrics |= run.state.history[-1] | epoch.metrics
            _evaluate_monitored(run, epoch.metrics)
        epoch.complete = not run.control.stopping
        run.hooks.dispatch(
            AfterTrainingEpoch(epoch.number, epoch.max_epochs, epoch.complete, epoch.seconds, epoch.metrics, repeated)
        )


def _announce_epoch(run: TrainingRun) -> None:
    epoch = run.state.epoch
    run.hooks.dispatch(BeforeTrainingEpoch(epoch.number, epoch.max_epochs, epoch.batches))


def _train_batches(run: TrainingRun, reader: EpochReader) -> None:
    try:
        reader.start_epoch()
        _evaluate_within_epoch(run)  # if it is resumed from a checkpoint that was saved before an evaluation
        for group in reader.groups():
            run.modes.train()
            training_step(run, group)
            _handle_requests(run, run.agreement.after_step)
            _evaluate_within_epoch(run)
            if run.epoch_is_over:
                return
    except InterruptedReadingError:
        _handle_requests(run, run.agreement.now)


def _evaluate_within_epoch(run: TrainingRun) -> None:
    """Evaluate, if that is due after the last step, and carry out what plugins request then."""
    if not run.is_evaluation_due:
        return
    state, epoch = run.state, run.state.epoch
    _evaluate_monitored(run, epoch.scores)
    if run.control.stopping:
        return
    losses = epoch.loss.read_of_all(run.processes, run.device, list(run.optimizers))
    metrics = EpochMetrics(losses | optimizer_metrics(run.optimizers) | epoch.scores, run.monitored_splits)
    run.hooks.dispatch(AfterStepEvaluation(epoch.number, epoch.batch, state.step, epoch.seconds, metrics))
    run.finish_step_evaluation(metrics)
    _handle_requests(run, run.agreement.now)


def _evaluate_monitored(run: TrainingRun, scores: dict[str, MetricValue]) -> None:
    """Add the metrics of the monitored splits; some may have been evaluated before a resumption.

    If a signal interrupts the evaluation, save a checkpoint.
    """
    scores |= _evaluate(run, [name for name in run.monitored_splits if f"{name}/loss" not in scores])
    if not run.control.interrupted:
        run.state.evaluated_step = run.state.step
    elif run.checkpointer is not None:
        run.checkpointer.save_checkpoint()


def _evaluate(run: TrainingRun, splits: Iterable[str]) -> dict[str, MetricValue]:
    """Return the metrics of some splits; if a signal interrupts the evaluation of one, decide on the requests."""
    metrics: dict[str, MetricValue] = {}
    for split in splits:
        try:
            metrics |= evaluate(run, split)
        except InterruptedReadingError:
            run.control.decide(run.agreement.now)
            break
    return metrics


def _handle_requests(run: TrainingRun, agree: Callable[[Requests], Requests | None]) -> None:
    """Carry out what is requested; during a pause, wait here and carry out what is requested meanwhile.

    Several processes do so after the same step: `agree` returns what any of them requests, or None if that is not known
    yet.
    """
    requests = _carry_out(run, agree)
    while requests.pause and not run.control.stopping:
        run.bus.state = "paused"
        run.control.wait(PAUSE_SECONDS)
        requests = _carry_out(run, run.agreement.now)
    run.bus.state = "running"


def _carry_out(run: TrainingRun, agree: Callable[[Requests], Requests | None]) -> Requests:
    for command in run.control.take_commands():
        apply_command(run, command)
    requests, epoch = run.control.decide(agree), run.state.epoch
    epoch.is_cut = epoch.is_cut or requests.end_epoch
    if requests.learning_rate:
        for name, optimizer in run.optimizers.items():
            run.set_learning_rates([requests.learning_rate] * len(optimizer.param_groups), "set by a command", name)
    if requests.evaluate and not run.control.stopping:
        _evaluate(run, run.monitored_splits)
    if run.checkpointer is not None and (requests.checkpoint or run.control.interrupted):
        run.checkpointer.save_checkpoint()
    return requests


def _end(run: TrainingRun) -> dict[str, MetricValue]:
    """Set the status, save the final model and, unless interrupted, test the best one; return the test's metrics."""
    control, state = run.control, run.state
    if control.stop_reason is not None:
        run.end("interrupted" if control.interrupted else "finished", control.stop_reason)
    elif run.is_at_max_steps:
        run.end("finished", f"max_steps reached: {state.step}")
    else:
        run.end("finished", f"max_epochs reached: {state.epoch.number}")

    if control.interrupted:
        run.hooks.dispatch_to_all(TrainingInterrupt(run.reason))
    else:
        if run.checkpointer is not None:
            run.checkpointer.save_checkpoint()
        run.hooks.dispatch_to_all(AfterTrainingLoop(run.reason, state.epoch.number, state.step))
    if run.options.save_final_model:
        run.save_model(FINAL_MODEL, "final")
    if run.status == "interrupted":
        return {}
    if state.best_model is not None and not run.options.use_final_model_for_eval:
        run.processes.wait_for_all()  # the first one has written the file
        run.load_model(state.best_model)
    test_metrics = _evaluate(run, ["test"] if "test" in run.evaluation_loaders else [])
    if control.interrupted:
        run.end("interrupted", control.stop_reason or "")
        run.hooks.dispatch_to_all(TrainingInterrupt(run.reason))
    return test_metrics
