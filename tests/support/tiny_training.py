"""A training that takes a moment: a linear model on linearly separable points."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn
from torch.utils.data import TensorDataset
from torchmetrics.classification import MulticlassAccuracy

from trainwire import Corpus, ModelTrainer, Plugin, Result, hook
from trainwire.training.hooks.payloads import HOOKS, MetricRecorded, Payload
from trainwire.training.options.plugin_names import PluginByName

Told = TypeVar("Told", bound=Payload)


def points(count: int, seed: int = 0) -> TensorDataset:
    """Return points with four coordinates, labelled by the sign of the sum of the first two."""
    inputs = torch.randn(count, 4, generator=torch.Generator().manual_seed(seed))
    return TensorDataset(inputs, (inputs[:, 0] + inputs[:, 1] > 0).long())


def corpus(train: int = 48, dev: int = 16, test: int = 16) -> Corpus:
    """Return a corpus of points for training, development and test."""
    return Corpus(points(train, 0), points(dev, 1), points(test, 2))


def linear() -> nn.Linear:
    """Return a linear model that always has the same weights."""
    model = nn.Linear(4, 2)
    nn.init.constant_(model.weight, 0.01)
    nn.init.zeros_(model.bias)
    return model


def make_trainer(model: nn.Module | None = None, **arguments: Any) -> ModelTrainer:
    """Return a trainer of the linear model that measures accuracy."""
    arguments = {
        "loss": nn.CrossEntropyLoss(), "metrics": {"accuracy": MulticlassAccuracy(2, average="micro")}, **arguments,
    }  # fmt: skip
    return ModelTrainer(linear() if model is None else model, **arguments)


def train(folder: Path, *plugins: Plugin | PluginByName, trainer: ModelTrainer | None = None, **options: Any) -> Result:
    """Train for two epochs of three batches by default, and start no sinks."""
    defaults: dict[str, Any] = {"mini_batch_size": 16, "max_epochs": 2, "seed": 1, "sinks": ()}
    if not {"train", "corpus"} & options.keys():
        defaults["corpus"] = corpus()
    return (trainer or make_trainer()).train(folder, plugins=plugins, **{**defaults, **options})


class Recorder(Plugin):
    """Keeps the payloads of all hooks, in order."""

    def __init__(self) -> None:
        self.calls: list[Payload] = []

    @hook(*HOOKS)
    def record(self, payload: Payload) -> None:
        self.calls.append(payload)

    def of(self, kind: type[Told]) -> list[Told]:
        """Return the payloads of one hook."""
        return [payload for payload in self.calls if isinstance(payload, kind)]

    @property
    def names(self) -> list[str]:
        """The hooks in the order in which they were called, without `metric_recorded`."""
        name_of = {kind: name for name, kind in HOOKS.items()}
        return [name_of[type(payload)] for payload in self.calls if not isinstance(payload, MetricRecorded)]
