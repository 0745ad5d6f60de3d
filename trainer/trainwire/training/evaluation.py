"""The evaluation of a model on a split."""

from __future__ import annotations

import time

from trainwire.training.data.batches import samples_in
from trainwire.training.data.failures import note_batch
from trainwire.training.epoch_reader import generators_of
from trainwire.training.hooks.payloads import AfterEvaluation, BeforeEvaluation, MetricValue
from trainwire.training.interruption import until_interrupted
from trainwire.training.metrics import read_metric
from trainwire.training.run import TrainingRun
from trainwire.training.state import MeanLoss, random_states, restore_random_states
from trainwire_protocol.errors import InterruptedReadingError, UsageError


def evaluate(run: TrainingRun, split: str) -> dict[str, MetricValue]:
    """Return the mean loss and the metrics of a split, with names like `dev/loss`. Synchronizes with the GPU.

    Raises:
        InterruptedReadingError: if a signal interrupted it. Nothing is recorded then, and the random states are those
            from before, so that a resumed training repeats the evaluation.
    """
    epoch, started = run.state.epoch.number, time.monotonic()
    about = {"split": split, "epoch": epoch}
    run.hooks.dispatch(BeforeEvaluation(split, epoch))
    run.publish("evaluation/started", about)
    for buffer in run.modules.buffers():  # such as the running means of batch norm, which differ between processes
        run.processes.copy_from_first(buffer)
    generators = generators_of(run)
    before = random_states(generators)
    try:
        with run.modes.evaluation():
            scores = _scores(run, split)
    except InterruptedReadingError:
        restore_random_states(before, generators)
        raise
    metrics = {f"{split}/{name}": value for name, value in scores.items()}
    seconds = time.monotonic() - started
    run.record(metrics)
    run.publish("evaluation/finished", {**about, "metrics": metrics, "seconds": seconds})
    run.hooks.dispatch(AfterEvaluation(split, epoch, metrics, seconds))
    return metrics


def _scores(run: TrainingRun, split: str) -> dict[str, MetricValue]:
    mean_loss = MeanLoss()
    for metric in run.metrics.values():
        metric.reset()
    for batch in until_interrupted(run, run.evaluation_loaders[split]):
        batch = run.batches.batch_to_device(batch, run.device)
        try:
            with run.precision.autocast():
                value, output, target, weight = run.forward.alone(batch)
            mean_loss.add(value, samples_in(run.batches, batch) if weight is None else weight)
            for metric in run.metrics.values():
                metric.update(output, target)
        except Exception as error:
            note_batch(error, split, batch)
            raise
    loss = mean_loss.read_of_all(run.processes, run.device)
    if loss is None:
        raise UsageError(
            f"{split} had no batches, or only batches of weight 0: check that its loader can be read again"
        )
    scores: dict[str, MetricValue] = {"loss": loss}
    for name, metric in run.metrics.items():
        scores |= read_metric(name, metric.compute())
    return scores
