"""Batches: tensors, or tuples, lists and maps of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from trainwire_protocol.errors import UsageError


def to_device(batch: Any, device: torch.device) -> Any:
    """The batch with all its tensors on the device; what is no tensor stays as it is."""
    if hasattr(batch, "to"):
        return batch.to(device, non_blocking=True)
    if isinstance(batch, Mapping):
        return {key: to_device(value, device) for key, value in batch.items()}
    if isinstance(batch, tuple) and hasattr(batch, "_fields"):
        return type(batch)(*(to_device(item, device) for item in batch))
    if isinstance(batch, (list, tuple)):
        return type(batch)(to_device(item, device) for item in batch)
    return batch


def samples_in(batch: Any) -> int:
    """How many samples a batch has: the length of its first tensor with a dimension, or 1."""
    return next((len(tensor) for tensor in _tensors(batch) if tensor.dim()), 1)


def split_batch(batch: Any, size: int) -> list[Any]:
    """A batch in parts of at most `size` samples: its tensors, and lists as long as these, are split."""
    samples = samples_in(batch)
    if samples <= size:
        return [batch]
    return [_part(batch, slice(start, start + size), samples) for start in range(0, samples, size)]


def _part(batch: Any, part: slice, samples: int) -> Any:
    if isinstance(batch, Tensor):
        return batch[part] if batch.dim() and len(batch) == samples else batch
    if isinstance(batch, Mapping):
        return {key: _part(value, part, samples) for key, value in batch.items()}
    if not isinstance(batch, (list, tuple)):
        return batch
    if not any(True for _ in _tensors(batch)) and len(batch) == samples:
        return batch[part]
    parts = [_part(item, part, samples) for item in batch]
    return type(batch)(*parts) if hasattr(batch, "_fields") else type(batch)(parts)


def inputs_and_target(batch: Any) -> tuple[tuple[Any, ...], Any]:
    """A batch taken apart: what the model is called with, and what its output is compared to.

    Raises:
        UsageError: it is no sequence of at least two.
    """
    if not isinstance(batch, (list, tuple)) or len(batch) < 2:
        raise UsageError(
            f"a batch is a {type(batch).__name__}, not inputs followed by a target: override ModelTrainer.forward"
        )
    return tuple(batch[:-1]), batch[-1]


def _tensors(batch: Any) -> Iterator[Tensor]:
    if isinstance(batch, Tensor):
        yield batch
    elif isinstance(batch, (Mapping, list, tuple)):
        for item in batch.values() if isinstance(batch, Mapping) else batch:
            yield from _tensors(item)
