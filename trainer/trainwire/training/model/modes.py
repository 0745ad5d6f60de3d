"""The modes of a model's modules: each is in training mode or in evaluation mode."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator
from contextlib import contextmanager

import torch
from torch import nn

from trainwire.training.model.models import plain_model, plain_modules

logger = logging.getLogger("trainwire")


class Modes:
    """Keeps the modes of a model's modules during a training.

    The trainer puts the whole model into evaluation mode for an evaluation, and restores the mode of each module after
    it. Apart from that, modules keep the mode that the program, a hook or an overridden `train` gives them, such as the
    evaluation mode of a frozen batch norm. Only a model without any module in training mode, as `from_pretrained`
    returns it or as a hook leaves it that calls `model.eval()`, is put into training mode.
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._plain = plain_model(model)
        """Without the wrappers around it, whose mode may differ from that of the model."""
        if not self._is_training:
            model.train()
        self.keep()

    @property
    def _is_training(self) -> bool:
        return any(module.training for module in self._plain.modules())

    def keep(self) -> None:
        """Remember the modes, unless the whole model is in evaluation mode."""
        if self._is_training:
            self._kept = _modes_of(self._model)

    def train(self) -> None:
        """If the whole model is in evaluation mode, return to the modes remembered last."""
        if not self._is_training:
            _set_modes(self._kept)

    @contextmanager
    def evaluation(self) -> Iterator[None]:
        """Put the model into evaluation mode, without gradients, and restore the mode of each module at the end."""
        self.keep()
        with evaluation_mode(self._model):
            yield

    def state_dict(self) -> list[str]:
        """Return the names of the modules that are in evaluation mode."""
        return [name for name, module in plain_modules(self._model) if not module.training]

    def load_state_dict(self, in_evaluation: Collection[str]) -> None:
        """Restore what `state_dict` returned."""
        _set_modes([(module, name not in in_evaluation) for name, module in plain_modules(self._model)])
        self.keep()

    def warn_of_evaluation(self) -> None:
        """Warn of modules with trainable parameters that are in evaluation mode, which may not be intended."""
        names = [
            name
            for name, module in plain_modules(self._model)
            if not module.training and any(parameter.requires_grad for parameter in module.parameters())
        ]
        outermost = [name for name in names if not any(name.startswith(f"{other}.") for other in names)]
        if outermost:
            logger.warning(
                "modules with trainable parameters are in evaluation mode, and stay in it: %s; "
                "call model.train() before the training if that is not intended",
                ", ".join(outermost[:5]) + (" …" if outermost[5:] else ""),
            )


@contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Put a model into evaluation mode, without gradients, and restore the mode of each module at the end."""
    before = _modes_of(model)
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        _set_modes(before)


def _modes_of(model: nn.Module) -> list[tuple[nn.Module, bool]]:
    return [(module, module.training) for module in model.modules()]


def _set_modes(modes: list[tuple[nn.Module, bool]]) -> None:
    """Set the mode of each module; a module precedes those inside it, whose mode its `train` sets too."""
    for module, is_training in modes:
        if module.training != is_training:
            module.train(is_training)
