"""Models that a training has saved, loaded into a model of the program."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from trainwire.training.model.models import BEST_MODEL, FINAL_MODEL, load_model_state, loss_path, plain_names
from trainwire.training.model.parameters import TrainedModules, shown
from trainwire_protocol.errors import OptionError, UsageError


def load_saved(modules: TrainedModules, folder: Path, file_name: str) -> None:
    """Load a model that was saved in a run's folder, and the loss that belongs to it, if it has parameters of its own.

    Raises:
        OptionError: if the folder has no such file.
        UsageError: if a file cannot be read, or has the weights of another model. Nothing is loaded then.
    """
    path = folder / file_name
    parts = [(modules.model, path)]
    if modules.loss is not None:
        parts.append((modules.loss, loss_path(path)))
    states = [(module, _read(module, file)) for module, file in parts]
    for module, state in states:
        load_model_state(module, state)


def _read(module: nn.Module, path: Path) -> Mapping[str, Any]:
    """Return the weights in a file, if they are those of the module."""
    if not path.is_file():
        raise OptionError(_about_missing(path))
    try:
        state: Mapping[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises various errors about a damaged file
        raise UsageError(f"{path} cannot be read: {error}") from error
    if differences := list(_differences(module, state)):
        raise UsageError(
            f"{path} has the weights of another model than this {type(module).__name__}: {shown(differences)}"
        )
    return state


def _about_missing(path: Path) -> str:
    folder = path.parent
    if not folder.is_dir():
        return f"run_folder is {folder}, which does not exist"
    if not (folder / "journal").is_dir():
        return f"run_folder is {folder}, which contains no run"
    saved = [name for name in (BEST_MODEL, FINAL_MODEL) if (folder / name).is_file()]
    reason = f"it has {saved[0]}" if saved else "its training has saved no model"
    if path.name == BEST_MODEL:
        reason += "; the best model is saved if there is a dev split"
    return f"{folder} has no {path.name}: {reason}"


def _differences(module: nn.Module, state: Mapping[str, Any]) -> Iterator[str]:
    """Yield in what the names and shapes of saved weights differ from those of the module."""
    current = module.state_dict()
    own = {plain: current[name] for name, plain in plain_names(module, current).items()}
    for name in [*own, *(name for name in state if name not in own)]:
        if name not in state:
            yield f"{name} is missing"
        elif name not in own:
            yield f"{name} is not part of the model"
        elif isinstance(own[name], Tensor) and isinstance(state[name], Tensor) and own[name].shape != state[name].shape:
            yield f"{name} has the shape {tuple(state[name].shape)}, not {tuple(own[name].shape)}"
