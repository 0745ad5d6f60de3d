"""The evaluation of a model on a split."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import nullcontext
from itertools import islice
from typing import TYPE_CHECKING, Any, Protocol

import torch

from trainwire.training.data.batches import Batches, samples_in
from trainwire.training.data.failures import note_batch
from trainwire.training.distributed.processes import Processes
from trainwire.training.epoch_reader import generators_of
from trainwire.training.forward import Forward
from trainwire.training.hooks.payloads import AfterEvaluation, BeforeEvaluation, MetricValue
from trainwire.training.interruption import Interruptible, until_interrupted
from trainwire.training.metrics import computed_alone, read_metric
from trainwire.training.model.precision import Precision
from trainwire.training.run import TrainingRun
from trainwire.training.state import LossParts, MeanLoss, random_states, restore_random_states
from trainwire_protocol.errors import InterruptedReadingError, UsageError

if TYPE_CHECKING:
    from torchmetrics import Metric


class Evaluated(Interruptible, Protocol):
    """What is evaluated: the model of a training, or one outside of a training."""

    @property
    def batches(self) -> Batches:
        """The trainer's methods for batches."""

    @property
    def device(self) -> torch.device:
        """The device of the batches."""

    @property
    def precision(self) -> Precision:
        """The precision of the forward pass."""

    @property
    def metrics(self) -> Mapping[str, Metric]:
        """The metrics by name, on the device."""


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
        with run.modes.evaluation(), run.forward.evaluation() as forward:
            batches = islice(run.evaluation_loaders[split], run.options.trial_run or None)
            in_step = run.processes if run.sharding is not None else None
            scores = mean_scores(run, split, batches, forward, in_step)
    except InterruptedReadingError:
        restore_random_states(before, generators)
        raise
    metrics = {f"{split}/{name}": value for name, value in scores.items()}
    seconds = time.monotonic() - started
    run.record(metrics)
    run.publish("evaluation/finished", {**about, "metrics": metrics, "seconds": seconds})
    run.hooks.dispatch(AfterEvaluation(split, epoch, metrics, seconds))
    return metrics


def mean_scores(
    owner: Evaluated,
    split: str,
    loader: Iterable[Any],
    forward: Callable[[Any], Forward],
    in_step: Processes | None = None,
    *,
    is_divided: bool = True,
) -> dict[str, MetricValue]:
    """Return the mean loss and the metrics of the batches of all processes, by name. Synchronizes with the GPU.

    Args:
        split: What the batches are called in errors.
        forward: Returns the checked result for a batch on the device.
        in_step: The processes of a sharded model: one with fewer batches repeats its last one, which does not count.
        is_divided: False: each of several processes reads all samples, and so computes the metrics by itself.

    Raises:
        InterruptedReadingError: if a signal interrupted it.
        UsageError: if there is no batch, or only batches of weight 0.
    """
    mean_loss, parts = MeanLoss(), LossParts()
    for metric in owner.metrics.values():
        metric.reset()
    pairs = in_step.while_any_has(loader) if in_step else ((batch, True) for batch in loader)
    for batch, is_own in until_interrupted(owner, pairs):
        batch = owner.batches.batch_to_device(batch, owner.device)
        try:
            with owner.precision.autocast():
                result = forward(batch)
            if not is_own:
                continue
            weight = samples_in(owner.batches, batch) if result.weight is None else result.weight
            mean_loss.add(result.loss, weight)
            parts.add(result.parts, weight)
            for metric in owner.metrics.values():
                metric.update(result.output, result.target)
        except Exception as error:
            note_batch(error, split, batch)
            raise
    loss = mean_loss.read_of_all(owner.processes, owner.device)
    if loss is None:
        raise UsageError(
            f"{split} had no batches, or only batches of weight 0: check that its loader can be read again"
        )
    scores: dict[str, MetricValue] = {"loss": loss, **parts.read_of_all(owner.processes, owner.device)}
    is_shared = owner.processes.several and is_divided
    with nullcontext() if is_shared else computed_alone(owner.metrics.values()):
        for name, metric in owner.metrics.items():
            scores |= read_metric(name, metric.compute())
    return scores
