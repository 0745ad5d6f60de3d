"""The dry run: tries model, loss and metrics on a few samples of each split before anything is opened."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, Final

from torch import Tensor
from torch.utils.data import DataLoader

from trainwire.training.data import is_indexed, length_of, to_device
from trainwire.training.forward import Forward, checked_forward
from trainwire.training.metrics import read_metric
from trainwire.training.models import evaluation_mode
from trainwire.training.setup import TrainingSetup
from trainwire.training.state import random_states, restore_random_states
from trainwire_protocol.errors import OptionError, UsageError

SAMPLES: Final = 2
"""The number of samples of each split that are tried, from its start."""


def dry_run(setup: TrainingSetup) -> None:
    """Pass a few samples of each split through the model, the loss and the metrics, without side effects.

    Splits whose samples have no index, such as streams, are left out.

    Raises:
        OptionError: if that fails; the message names the split and describes its batches.
    """
    before = random_states()
    try:
        with evaluation_mode(setup.model):
            _try_split(setup, "train", setup.train_loader, score=False)
            for split, loader in setup.evaluation_loaders.items():
                _try_split(setup, split, loader, score=True)
    finally:
        restore_random_states(before)


def _try_split(setup: TrainingSetup, split: str, loader: DataLoader[Any], *, score: bool) -> None:
    if not is_indexed(loader.dataset) or loader.batch_size is None:
        return
    batch: object = None
    try:
        samples = [loader.dataset[index] for index in range(min(SAMPLES, length_of(loader.dataset) or 0))]
        batch = to_device(loader.collate_fn(samples), setup.device)
        with setup.precision.autocast():
            forward = checked_forward(setup.forward(batch))
        if score:
            _try_metrics(setup, split, forward)
    except Exception as error:
        message = f"the dry run failed on a batch of {split} ({describe(batch)}): {type(error).__name__}: {error}"
        raise OptionError(message) from error
    finally:
        for metric in setup.metrics.values():
            metric.reset()


def _try_metrics(setup: TrainingSetup, split: str, forward: Forward) -> None:
    """Update the metrics, and check that the main metric is a single number."""
    values: dict[str, object] = {}
    for name, metric in setup.metrics.items():
        metric.update(forward.output, forward.target)
        with suppress(Exception), warnings.catch_warnings(action="ignore"):  # a metric may need more samples
            values |= {f"{split}/{key}": value for key, value in read_metric(name, metric.compute()).items()}
    main = setup.main_metric.name if setup.main_metric else ""
    parts = [name for name in values if name.startswith(f"{main}/")]
    if main.startswith(f"{split}/") and main not in values and parts:
        raise UsageError(f"{main} is several numbers: set main_evaluation_metric to {' or '.join(parts)}")
    if isinstance(values.get(main), list):
        raise UsageError(f"{main} is a list of numbers: the main metric must be a single number")


def describe(value: object) -> str:
    """Return a short description of the contents of a batch."""
    if value is None:
        return "its samples could not be read"
    if isinstance(value, Tensor):
        return f"{str(value.dtype).removeprefix('torch.')}{list(value.shape)}"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{name!r}: {describe(item)}" for name, item in list(value.items())[:8]) + "}"
    if isinstance(value, Sequence) and not isinstance(value, (str, bytes)):
        return ", ".join(describe(item) for item in value[:8])
    return type(value).__name__
