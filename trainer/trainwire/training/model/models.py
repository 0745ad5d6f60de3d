"""Models: checks before a training, models inside wrappers, and weights on disk."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DataParallel, DistributedDataParallel
from torch.nn.parameter import UninitializedParameter

from trainwire.training.distributed.sharding import divided_like, without_shards
from trainwire.training.savable import as_before, savable
from trainwire_protocol.errors import OptionError

BEST_MODEL = "best-model.pt"
FINAL_MODEL = "final-model.pt"
MODEL_CARD = "model-card.json"
"""Describes the models, if the plugin that writes it is attached."""


def checked_model(model: object) -> nn.Module:
    """Return the model, if it can be trained.

    Raises:
        OptionError: if it is not an `nn.Module`, or has parameters without a shape.
    """
    if not isinstance(model, nn.Module):
        raise OptionError(f"model is {model!r}; it must be a torch.nn.Module")
    if any(isinstance(parameter, UninitializedParameter) for parameter in model.parameters()):
        raise OptionError("the model has lazy parameters without a shape: call it with a batch first")
    return model


def is_callable(model: nn.Module) -> bool:
    """Return whether the model has a `forward` of its own, and not only parts that have one."""
    return getattr(plain_model(model).forward, "__func__", None) is not nn.Module.forward


def device_of(model: nn.Module, requested: str | torch.device | None) -> torch.device:
    """Return the device of the batches: the requested one, or by default that of the model's first parameter.

    Raises:
        OptionError: if the device does not exist.
    """
    if requested is None:
        # The meta device has no data: parameters that are on it are loaded when they are needed.
        found = [tensor.device for tensor in _tensors(model) if not tensor.is_meta]
        return found[0] if found else torch.device("cpu")
    try:
        return torch.empty(0, device=requested).device
    except (RuntimeError, AssertionError, TypeError) as error:  # torch asserts that it was built for CUDA
        raise OptionError(f"device is {requested!r}, which is not available: {error}") from None


def is_spread(model: nn.Module) -> bool:
    """Return whether parts of the model were placed on several devices."""
    places = {str(device) for device in dict(getattr(plain_model(model), "hf_device_map", {})).values()}
    accelerators = {tensor.device for tensor in _tensors(model) if tensor.device.type not in ("cpu", "meta")}
    return len(places) > 1 or len(accelerators) > 1


def place(module: nn.Module, device: torch.device, name: str) -> None:
    """Move a module to the device, unless all of it is there.

    Raises:
        OptionError: if it is spread over several devices, or cannot be moved. The message calls it `name`.
    """
    if all(tensor.device == device for tensor in _tensors(module)):
        return
    if is_spread(module):
        raise OptionError(f"device is {device}, but the {name} is spread over several devices: omit device=")
    try:
        module.to(device)
    except Exception as error:
        raise OptionError(f"the {name} cannot be moved to {device}: {error}; omit device= if it is in place") from error


def _tensors(module: nn.Module) -> Iterator[Tensor]:
    yield from module.parameters()
    yield from module.buffers()


def trainable_parameters(model: nn.Module) -> list[nn.Parameter]:
    """Return the parameters that require gradients."""
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def count_parameters(model: nn.Module) -> int:
    """Return the number of trainable weights."""
    return sum(parameter.numel() for parameter in trainable_parameters(model))


def plain_model(model: nn.Module) -> nn.Module:
    """Return the model without the wrappers around it: those of `torch.compile`, DataParallel and DDP."""
    while inner := _wrapped_as(model):
        model = model.get_submodule(inner)
    return model


def not_distributed(model: nn.Module) -> nn.Module:
    """Return the model without the DistributedDataParallel around it, whose work the trainer does itself.

    Raises:
        OptionError: if there is one inside the model.
    """
    model = model.module if isinstance(model, DistributedDataParallel) else model
    if any(isinstance(module, DistributedDataParallel) for module in model.modules()):
        raise OptionError("the model contains a DistributedDataParallel: omit it, as the trainer wraps the whole model")
    return model


def class_of(model: nn.Module) -> type[nn.Module]:
    """Return the model's class, without wrappers, and not the one that `fully_shard` derives from it."""
    kind = type(plain_model(model))
    return kind.__mro__[2] if kind.__mro__[1].__name__ == "FSDPModule" else kind


def name_of(model: nn.Module) -> str:
    """Return the name of the model's class, without wrappers."""
    return class_of(model).__name__


def _wrapped_as(module: nn.Module) -> str | None:
    """Return the attribute in which a wrapper has the module inside it; None if the module is not a wrapper."""
    if isinstance(module, (DataParallel, DistributedDataParallel)):
        return "module"
    # The class of compiled modules is not imported, because that takes more than a second.
    return "_orig_mod" if any(name == "_orig_mod" for name, _ in module.named_children()) else None


def plain_names(model: nn.Module, names: Iterable[str]) -> dict[str, str]:
    """Return names of parameters, buffers or modules, each with its name in the model without wrappers.

    A wrapper adds a part to the names of what is inside it, `_orig_mod` or `module`. The model or any part of it may
    be wrapped.
    """
    wrappers = [
        (f"{name}." if name else "", inner)
        for name, module in model.named_modules(remove_duplicate=False)
        if (inner := _wrapped_as(module))
    ]
    plain = {name: name for name in names}
    for outside, inner in reversed(wrappers):  # the inner ones first, while the names outside them are unchanged
        inside = f"{outside}{inner}."
        for name in plain:
            if f"{name}.".startswith(inside):
                plain[name] = (outside + plain[name][len(inside) :]).removesuffix(".")
    return plain


def plain_parameters(model: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """Yield the parameters with their names in the model without wrappers."""
    found = dict(model.named_parameters())
    yield from ((plain, found[name]) for name, plain in plain_names(model, found).items())


def plain_modules(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Yield the modules that are not wrappers, with their names in the model without wrappers."""
    found = {name: module for name, module in model.named_modules() if not _wrapped_as(module)}
    yield from ((plain, found[name]) for name, plain in plain_names(model, found).items())


def model_state(model: nn.Module) -> dict[str, Any]:
    """Return the model's `state_dict` as the model without wrappers has it."""
    state: dict[str, Any] = model.state_dict()
    plain = plain_names(model, state)
    is_plain = all(name == changed for name, changed in plain.items())
    return state if is_plain else {changed: state[name] for name, changed in plain.items()}


def load_model_state(model: nn.Module, state: Mapping[str, Any]) -> None:
    """Load what `model_state` returned, for a model with the same or other wrappers."""
    current = model.state_dict()
    wrapped = {plain: name for name, plain in plain_names(model, current).items() if plain != name}
    renamed = {wrapped.get(name, name): value for name, value in state.items()} if wrapped else state
    before = as_before(renamed, current)
    for name, value in before.items():
        before[name] = divided_like(value, current.get(name))
    model.load_state_dict(before)


def optimizer_path(path: Path) -> Path:
    """Return where the state of the optimizer is saved with a model."""
    return path.with_suffix(".optimizer.pt")


def loss_path(path: Path) -> Path:
    """Return the file, beside a model's, that holds the weights of the loss that belongs to it."""
    return path.with_suffix(".loss.pt")


def save_model(model: nn.Module, path: Path, *, writes: bool = True) -> None:
    """Save the model's weights, with their names in the model without wrappers: see `save_atomically`.

    Args:
        writes: Whether this process writes the file. If the model is sharded, all processes must call this.

    Raises:
        UsageError: if something in its `state_dict` cannot be saved.
    """
    state = without_shards(model_state(model), keep=writes)
    if writes:
        save_atomically(savable(state, "the model's state_dict"), path)


def save_atomically(state: Mapping[str, Any], path: Path) -> None:
    """Save a state to a temporary file and rename it, so that `path` is never incomplete.

    Raises:
        OSError: if the folder cannot be written or the disk is full; `path` is then unchanged.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        with temporary.open("wb") as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def load_model(model: nn.Module, path: Path) -> None:
    """Load the weights that `save_model` saved; no code in the file is executed."""
    load_model_state(model, torch.load(path, map_location="cpu", weights_only=True, mmap=True))
