"""The shards of a checkpoint: sharded tensors, of which `torch.distributed.checkpoint` writes each process's part."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor
from torch.distributed import ProcessGroup

from trainwire.training.distributed.sharding import (
    Sharding,
    divided_like,
    is_sharded,
    placements_in,
    replace_tensors,
)
from trainwire_protocol.errors import UsageError

FOLDER: Final = "shards"
"""The folder of the shards, inside that of a checkpoint: what `torch.distributed.checkpoint` reads."""

COMPLETE: Final = ("model", "loss")
"""The parts of a state of which the shards contain everything, so that torch's tools can read the whole module."""


def split_shards(state: Mapping[str, Any], *, is_first: bool) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return a state with a meta tensor in the place of each sharded tensor, and a map of maps with the sharded ones.

    Args:
        is_first: Whether this process saves what is not sharded of the model and the loss with the shards too.
    """
    shards: dict[str, Any] = {name: dict(state.get(name, {})) for name in COMPLETE} if is_first else {}

    def take(path: tuple[str, ...], tensor: Tensor) -> Tensor:
        _put(shards, path, tensor)
        return torch.empty(tensor.shape, dtype=tensor.dtype, device="meta")

    return replace_tensors(state, is_sharded, take), {name: part for name, part in shards.items() if part}


def write_shards(folder: Path, shards: Mapping[str, Any], group: ProcessGroup, rank: int) -> list[Path]:
    """Write this process's part of the shards, together with all others, and return its files.

    Raises:
        UsageError: if any process could not write its part.
    """
    from torch.distributed.checkpoint.api import CheckpointException
    from torch.distributed.checkpoint.filesystem import FileSystemWriter
    from torch.distributed.checkpoint.state_dict_saver import save

    try:
        save(dict(shards), storage_writer=FileSystemWriter(folder / FOLDER), process_group=group)
    except CheckpointException as error:
        raise UsageError(_reason(error)) from error
    return [*sorted((folder / FOLDER).glob(f"__{rank}_*")), *([folder / FOLDER / ".metadata"] if rank == 0 else [])]


def read_shards(folder: Path, state: Mapping[str, Any], sharding: Sharding | None) -> dict[str, Any]:
    """Return a state with the tensors of the shards in the place of the meta tensors, on the CPU.

    Args:
        sharding: How the tensors are divided among the processes, all of which must call this; None: they are whole.

    Raises:
        UsageError: if the shards cannot be read.
    """
    shards: dict[str, Any] = {}

    def make(path: tuple[str, ...], meta: Tensor) -> Tensor:
        tensor = _empty(meta, sharding)
        _put(shards, path, tensor)
        return tensor

    filled: dict[str, Any] = replace_tensors(state, lambda value: isinstance(value, Tensor) and value.is_meta, make)
    if not shards:
        return filled
    from torch.distributed.checkpoint.api import CheckpointException
    from torch.distributed.checkpoint.filesystem import FileSystemReader
    from torch.distributed.checkpoint.state_dict_loader import load

    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "torch.distributed is disabled")
            load(
                shards, storage_reader=FileSystemReader(folder / FOLDER), no_dist=sharding is None,
                process_group=sharding and sharding.group,
            )  # fmt: skip
    except CheckpointException as error:
        raise UsageError(f"{folder / FOLDER} cannot be read: {_reason(error)}") from error
    return filled


def divided_state(saved: Any, current: Any) -> Any:
    """Return a saved state with this process's shards in the place of whole tensors, where `current` has shards."""
    if isinstance(saved, Mapping) and isinstance(current, Mapping):
        for key in saved.keys() & current.keys():
            if (divided := divided_state(saved[key], current[key])) is not saved[key]:
                saved = {**saved, key: divided}
        return saved
    if isinstance(saved, (list, tuple)) and type(saved) is type(current):
        return type(saved)([*map(divided_state, saved, current), *saved[len(current) :]])
    return divided_like(saved, current)


def divided_optimizer_state(saved: Mapping[str, Any], optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Return the state of an optimizer with this process's shards in the place of whole tensors."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    numbers = [number for group in saved["param_groups"] for number in group["params"]]
    by_number = dict(zip(numbers, parameters, strict=False))
    states = {
        number: {
            name: divided_like(value, parameter) if getattr(value, "shape", None) == parameter.shape else value
            for name, value in values.items()
        }
        for number, values in saved["state"].items()
        if (parameter := by_number[number]) is not None
    }
    return {**saved, "state": states}


def _empty(meta: Tensor, sharding: Sharding | None) -> Tensor:
    if sharding is None:
        return torch.empty(meta.shape, dtype=meta.dtype)
    from torch.distributed import tensor

    placements = placements_in(sharding.mesh, meta.dim())
    return tensor.empty(*meta.shape, dtype=meta.dtype, device_mesh=sharding.mesh, placements=placements).cpu()


def _put(tree: dict[str, Any], path: tuple[str, ...], tensor: Tensor) -> None:
    *folders, name = path
    for folder in folders:
        tree = tree.setdefault(folder, {})
    tree[name] = tensor


def _reason(error: Any) -> str:
    """Return what the processes report, in one line; torch's message contains their stack traces."""
    return "; ".join(f"process {rank}: {failure[0]}" for rank, failure in sorted(error.failures.items()))
