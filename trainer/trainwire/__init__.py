"""Trainwire: a pluggable PyTorch trainer whose metrics are events that independent sink processes read."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from trainwire.bus.bus import EventBus
from trainwire.bus.open_bus import open_bus
from trainwire_protocol.transport.endpoints import Tcp

if TYPE_CHECKING:
    from trainwire.model_trainer import ModelTrainer
    from trainwire.training.data.loaders import Corpus
    from trainwire.training.data.streams import DividedStream
    from trainwire.training.forward import Forward
    from trainwire.training.hooks.hooks import hook
    from trainwire.training.hooks.payloads import Result
    from trainwire.training.options.options import TrainingOptions
    from trainwire.training.plugin import Plugin

__all__ = [
    "Corpus", "DividedStream", "EventBus", "Forward", "ModelTrainer", "Plugin", "Result", "Tcp",
    "TrainingOptions", "hook", "open_bus",
]  # fmt: skip

_HOMES = {
    "Corpus": "training.data.loaders", "DividedStream": "training.data.streams", "Forward": "training.forward",
    "ModelTrainer": "model_trainer", "Plugin": "training.plugin", "Result": "training.hooks.payloads",
    "TrainingOptions": "training.options.options", "hook": "training.hooks.hooks",
}  # fmt: skip


def __dir__() -> list[str]:
    """Return the public names, whether they are imported yet or not."""
    return sorted([*__all__, "__version__"])


def __getattr__(name: str) -> Any:
    """Import what needs torch on first use, as the bus does not need it."""
    import importlib

    from trainwire_protocol.errors import MissingExtraError

    if name == "__version__":
        from importlib.metadata import version

        return version("trainwire")
    if name not in _HOMES:
        raise AttributeError(f"module 'trainwire' has no attribute {name!r}")
    try:
        return getattr(importlib.import_module(f"trainwire.{_HOMES[name]}"), name)
    except ModuleNotFoundError as error:
        if error.name in ("torch", "torchmetrics", "numpy"):
            raise MissingExtraError(f"trainwire.{name}", "torch", error.name) from error
        raise
