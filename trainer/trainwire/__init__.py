"""Trainwire: a pluggable PyTorch trainer whose metrics are events that independent sink processes read."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from trainwire.bus.bus import EventBus
from trainwire.bus.open import open_bus
from trainwire_protocol.transport.endpoints import Tcp

if TYPE_CHECKING:
    from trainwire.training.data import Corpus
    from trainwire.training.hooks.hooks import hook
    from trainwire.training.hooks.plugin import Plugin
    from trainwire.training.options import TrainingOptions
    from trainwire.training.result import Result
    from trainwire.training.step import Forward
    from trainwire.training.trainer import ModelTrainer

__all__ = [
    "Corpus", "EventBus", "Forward", "ModelTrainer", "Plugin", "Result", "Tcp", "TrainingOptions", "hook", "open_bus",
]  # fmt: skip

_HOMES = {
    "Corpus": "training.data", "Forward": "training.step", "ModelTrainer": "training.trainer",
    "Plugin": "training.hooks.plugin", "Result": "training.result", "TrainingOptions": "training.options",
    "hook": "training.hooks.hooks",
}  # fmt: skip


def __getattr__(name: str) -> Any:
    """Import what needs torch when it is asked for: the bus does without."""
    import importlib

    from trainwire_protocol.errors import MissingExtraError

    if name not in _HOMES:
        raise AttributeError(f"module 'trainwire' has no attribute {name!r}")
    try:
        return getattr(importlib.import_module(f"trainwire.{_HOMES[name]}"), name)
    except ModuleNotFoundError as error:
        if error.name in ("torch", "torchmetrics", "numpy"):
            raise MissingExtraError(f"trainwire.{name}", "torch", error.name) from error
        raise
