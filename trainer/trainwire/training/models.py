"""Models: checks before a training, evaluation mode, and weights on disk."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.parameter import UninitializedParameter

from trainwire_protocol.errors import OptionError

BEST_MODEL = "best-model.pt"
FINAL_MODEL = "final-model.pt"
MODEL_CARD = "model-card.json"
"""Describes the models, if the plugin that writes it is attached."""


def checked_model(model: object) -> nn.Module:
    """Return the model, if it can be trained.

    Raises:
        OptionError: if it is not an `nn.Module`, or has no trainable parameter.
    """
    if not isinstance(model, nn.Module):
        raise OptionError(f"model is {model!r}; it must be a torch.nn.Module")
    if any(isinstance(parameter, UninitializedParameter) for parameter in model.parameters()):
        raise OptionError("the model has lazy parameters without a shape: call it with a batch first")
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise OptionError(f"the model {type(model).__name__} has no trainable parameter")
    return model


def device_of(model: nn.Module, requested: str | torch.device | None) -> torch.device:
    """Return the device to train on: the requested one, or by default the model's.

    Raises:
        OptionError: if the device does not exist.
    """
    if requested is None:
        return next(model.parameters()).device
    try:
        device = torch.device(requested)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, TypeError) as error:  # torch asserts that it was built for CUDA
        raise OptionError(f"device is {requested!r}, which is not available: {error}") from None
    return device


def trainable_parameters(model: nn.Module) -> list[nn.Parameter]:
    """Return the parameters that require gradients."""
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def count_parameters(model: nn.Module) -> int:
    """Return the number of trainable weights."""
    return sum(parameter.numel() for parameter in trainable_parameters(model))


@contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Put the model in evaluation mode, without gradients, and restore its mode at the end."""
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        model.train(was_training)


def optimizer_path(path: Path) -> Path:
    """Return where the state of the optimizer is saved with a model."""
    return path.with_suffix(".optimizer.pt")


def save_model(model: nn.Module, path: Path) -> None:
    """Save the model's `state_dict`: see `save_atomically`."""
    save_atomically(model.state_dict(), path)


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
    model.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
