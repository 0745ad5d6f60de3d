"""A model's weights on disk, and how it is looked at before a training."""

from __future__ import annotations

import os
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.parameter import UninitializedParameter

from trainwire_protocol.errors import OptionError

BEST_MODEL = "best-model.pt"
FINAL_MODEL = "final-model.pt"


def save_model(model: nn.Module, path: Path) -> None:
    """Save the model's `state_dict`: see `save_atomically`."""
    save_atomically(model.state_dict(), path)


def save_atomically(state: Mapping[str, Any], path: Path) -> None:
    """Save a state, written aside and renamed, so that `path` never holds half of it.

    Raises:
        OSError: the folder cannot be written, or the disk is full; `path` is then unchanged.
    """
    aside = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        with aside.open("wb") as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())
        aside.replace(path)
    except BaseException:
        aside.unlink(missing_ok=True)
        raise


def load_model(model: nn.Module, path: Path) -> None:
    """Give the model the weights that `save_model` saved; nothing in the file is executed."""
    model.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))


def checked_model(model: object) -> nn.Module:
    """The model, if it is one that can be trained.

    Raises:
        OptionError: it is no `nn.Module`, or has no trainable parameter.
    """
    if not isinstance(model, nn.Module):
        raise OptionError(f"model is {model!r}: it has to be a torch.nn.Module")
    if any(isinstance(parameter, UninitializedParameter) for parameter in model.parameters()):
        raise OptionError("the model has lazy parameters without a shape: call it with a batch first")
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise OptionError(f"the model {type(model).__name__} has no trainable parameter")
    return model


def device_of(model: nn.Module, wanted: str | torch.device | None) -> torch.device:
    """Where to train: where wanted, or where the model is.

    Raises:
        OptionError: there is no such device.
    """
    if wanted is None:
        return next(model.parameters()).device
    try:
        device = torch.device(wanted)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, TypeError) as error:  # torch asserts that it was built for CUDA
        raise OptionError(f"device is {wanted!r}, which cannot be used here: {error}") from None
    return device


def trainable_parameters(model: nn.Module) -> list[nn.Parameter]:
    """The parameters that the optimizer changes."""
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def count_parameters(model: nn.Module) -> int:
    """How many numbers the optimizer changes."""
    return sum(parameter.numel() for parameter in trainable_parameters(model))
