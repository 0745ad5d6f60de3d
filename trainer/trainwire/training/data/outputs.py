"""The outputs of a model for several batches, or of several processes, as one output for all samples."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import chain
from typing import Any, TypeAlias

import torch
from torch import Tensor

from trainwire.training.data.batches import to_device

Join: TypeAlias = Callable[[list[Any]], Any]
"""Joins tensors that differ only in their first dimension, or lists."""


def on_cpu(output: Any, device: torch.device) -> Any:
    """Return an output on the CPU, without its graph. Synchronizes with the device that it was on."""
    if isinstance(output, Tensor):
        return output.detach().cpu()
    moved = to_device(output, torch.device("cpu"))
    if device.type != "cpu":
        torch.accelerator.synchronize(device)  # as `to_device` does not wait for the copies
    return moved


def joined(outputs: Sequence[Any]) -> Any:
    """Return the outputs for several batches as one: see `_joined`."""
    return _joined(outputs, lambda parts: torch.cat(parts) if isinstance(parts[0], Tensor) else list(chain(*parts)))


def interleaved(outputs: Sequence[Any], samples: Sequence[int]) -> Any:
    """Return the outputs of several processes, which take the samples in turns, as one: see `_joined`.

    What has no row or item for each sample follows each other.

    Args:
        samples: The number of samples of each process.
    """
    total, size = sum(samples), len(samples)
    takes_turns = all(count == len(range(rank, total, size)) for rank, count in enumerate(samples))

    def join(parts: list[Any]) -> Any:
        is_tensor = isinstance(parts[0], Tensor)
        if not takes_turns or [len(part) for part in parts] != list(samples):
            return torch.cat(parts) if is_tensor else list(chain(*parts))
        whole: Any = parts[0].new_empty((total, *parts[0].shape[1:])) if is_tensor else [None] * total
        for rank, part in enumerate(parts):
            whole[rank::size] = part
        return whole

    return _joined(outputs, join)


def first_samples(output: Any, count: int, samples: int) -> Any:
    """Return the part of an output that belongs to the first `count` of its samples."""
    if isinstance(output, (Tensor, list)):
        has_rows = len(output) == samples if isinstance(output, list) or output.dim() else False
        return output[:count] if has_rows else output
    if isinstance(output, Mapping):
        return {key: first_samples(part, count, samples) for key, part in output.items()}
    if isinstance(output, tuple):
        return _like(output, [first_samples(part, count, samples) for part in output])
    return output


def _joined(outputs: Sequence[Any], join: Join) -> Any:
    """Return several outputs as one.

    Tensors become one tensor; if they differ in more than their first dimension, a list with one tensor for each
    sample. Lists become one list. The parts of mappings and tuples are joined one by one. Everything else becomes a
    list of the outputs.
    """
    first = outputs[0]
    if all(isinstance(each, Tensor) and each.dim() for each in outputs):
        alike = {(each.dtype, each.shape[1:]) for each in outputs}
        return join(list(outputs)) if len(alike) == 1 else join([list(each) for each in outputs])
    if all(isinstance(each, list) or (isinstance(each, Tensor) and each.dim()) for each in outputs):
        return join([list(each) for each in outputs])
    if all(isinstance(each, Mapping) and each.keys() == first.keys() for each in outputs):
        return {key: _joined([each[key] for each in outputs], join) for key in first}
    if all(isinstance(each, tuple) and len(each) == len(first) for each in outputs):
        return _like(first, [_joined(parts, join) for parts in zip(*outputs, strict=True)])
    return list(outputs)


def _like(value: tuple[Any, ...], parts: list[Any]) -> tuple[Any, ...]:
    return type(value)(*parts) if hasattr(value, "_fields") else tuple(parts)
