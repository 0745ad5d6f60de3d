"""Trying out model, loss and metrics on a few samples of each split, before anything is opened."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

from torch import Tensor
from torch.utils.data import DataLoader

from trainwire.training.data import is_indexed, length_of, to_device
from trainwire.training.evaluation import evaluating, read_metric
from trainwire.training.random_states import random_states, restore_random_states
from trainwire.training.step import Forward, checked_forward
from trainwire_protocol.errors import OptionError, UsageError

if TYPE_CHECKING:
    from trainwire.training.run import TrainingRun
    from trainwire.training.trainer import ModelTrainer

SAMPLES: Final = 2
"""Of each split; the first ones."""


def check_fit(trainer: ModelTrainer, run: TrainingRun) -> None:
    """Let a few samples of each split go through the model, the loss and the metrics, and leave no trace.

    Samples that cannot be had by their index, as those of a stream, are not tried out, nor a `forward` that the user
    has written, which may count on a training that runs.

    Raises:
        OptionError: they do not go through; says which split it was, and what a batch of it is.
    """
    if trainer.overrides_forward:
        return
    before = random_states()
    try:
        with evaluating(run.model):
            _try_out(trainer, run, "train", run.train_loader, score=False)
            for split, loader in run.evaluation_loaders.items():
                _try_out(trainer, run, split, loader, score=True)
    finally:
        restore_random_states(before)


def _try_out(trainer: ModelTrainer, run: TrainingRun, split: str, loader: DataLoader[Any], *, score: bool) -> None:
    if not is_indexed(loader.dataset) or loader.batch_size is None:
        return
    batch: object = None
    try:
        samples = [loader.dataset[index] for index in range(min(SAMPLES, length_of(loader.dataset) or 0))]
        batch = to_device(loader.collate_fn(samples), run.device)
        with run.precision.autocast():
            forward = checked_forward(trainer.forward(batch))
        if score:
            _try_metrics(run, split, forward)
    except Exception as error:
        told = f"a batch of {split} does not go through ({describe(batch)}): {type(error).__name__}: {error}"
        raise OptionError(told) from error
    finally:
        for metric in run.metrics.values():
            metric.reset()


def _try_metrics(run: TrainingRun, split: str, forward: Forward) -> None:
    """Update the metrics, and see that the main one is a single number."""
    values: dict[str, object] = {}
    for name, metric in run.metrics.items():
        metric.update(forward.output, forward.target)
        with suppress(Exception), warnings.catch_warnings(action="ignore"):  # so few samples may not be enough for it
            values |= {f"{split}/{key}": value for key, value in read_metric(name, metric.compute()).items()}
    main = run.main_metric.name if run.main_metric else ""
    parts = [name for name in values if name.startswith(f"{main}/")]
    if main.startswith(f"{split}/") and main not in values and parts:
        raise UsageError(f"{main} is not one number but several: give main_evaluation_metric as {' or '.join(parts)}")
    if isinstance(values.get(main), list):
        raise UsageError(f"{main} is a list of numbers: models are compared by a single one")


def describe(value: object) -> str:
    """What a batch consists of, in a few words."""
    if value is None:
        return "its samples could not be read"
    if isinstance(value, Tensor):
        return f"{str(value.dtype).removeprefix('torch.')}{list(value.shape)}"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{name!r}: {describe(item)}" for name, item in list(value.items())[:8]) + "}"
    if isinstance(value, Sequence) and not isinstance(value, (str, bytes)):
        return ", ".join(describe(item) for item in value[:8])
    return type(value).__name__
