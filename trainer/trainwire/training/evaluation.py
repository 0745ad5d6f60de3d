"""Evaluating a model on a split."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from trainwire.training.data import samples_in, to_device
from trainwire.training.hooks.payloads import AfterEvaluation, BeforeEvaluation, MetricValue
from trainwire.training.state import MeanLoss
from trainwire.training.step import checked_forward
from trainwire_protocol.errors import UsageError

if TYPE_CHECKING:
    from trainwire.training.run import TrainingRun
    from trainwire.training.trainer import ModelTrainer

logger = logging.getLogger("trainwire")


def evaluate(trainer: ModelTrainer, run: TrainingRun, split: str) -> dict[str, MetricValue]:
    """The mean loss and the metrics of a split, named with it: `dev/loss`. A GPU is waited for at the end."""
    epoch, began = run.state.epoch.number, time.monotonic()
    about = {"split": split, "epoch": epoch}
    run.hooks.dispatch(BeforeEvaluation(split, epoch))
    run.publish("evaluation/started", about)
    for buffer in run.model.buffers():  # such as the means of a batch norm: the first process saves its own
        run.processes.copy_from_first(buffer)
    with evaluating(run.model):
        scores = _scores(trainer, run, run.evaluation_loaders[split])
    metrics = {f"{split}/{name}": value for name, value in scores.items()}
    seconds = time.monotonic() - began
    run.record(metrics)
    run.publish("evaluation/finished", {**about, "metrics": metrics, "seconds": seconds})
    run.hooks.dispatch(AfterEvaluation(split, epoch, metrics, seconds))
    return metrics


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """The model in evaluation mode, without gradients; then as it was."""
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        model.train(was_training)


def _scores(trainer: ModelTrainer, run: TrainingRun, loader: DataLoader[Any]) -> dict[str, MetricValue]:
    mean_loss = MeanLoss()
    for metric in run.metrics.values():
        metric.reset()
    for batch in loader:
        batch = to_device(batch, run.device)
        with run.precision.autocast():
            forward = checked_forward(trainer.forward(batch))
        mean_loss.add(forward.loss, samples_in(batch))
        for metric in run.metrics.values():
            metric.update(forward.output, forward.target)
    loss = mean_loss.read_of_all(run.processes, run.device)
    if loss is None:
        raise UsageError("the loader of a split that is evaluated gave no batch")
    scores: dict[str, MetricValue] = {"loss": loss}
    for name, metric in run.metrics.items():
        scores |= read_metric(name, metric.compute())
    return scores


def read_metric(name: str, value: object) -> dict[str, MetricValue]:
    """A computed metric as numbers: one, a list for one of each class, or those of a map, each by its own name."""
    if isinstance(value, Mapping):
        return {
            key: part for label, item in value.items() for key, part in read_metric(f"{name}/{label}", item).items()
        }
    if isinstance(value, Tensor) and value.dim() <= 1:
        return {name: value.item() if value.dim() == 0 else [float(item) for item in value.tolist()]}
    if isinstance(value, (int, float)):
        return {name: float(value)}
    logger.warning("the metric %s computes neither a number nor a list of numbers: it is not recorded", name)
    return {}
