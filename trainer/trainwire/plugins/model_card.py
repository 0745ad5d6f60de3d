"""Writes a model card: what the model is, and how it was trained."""

from __future__ import annotations

import json
import math
import platform
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib import metadata
from typing import Any, Final

from trainwire.training.hooks.base_plugin import BasePlugin
from trainwire.training.hooks.hooks import hook
from trainwire.training.hooks.payloads import (
    AfterEvaluation,
    AfterSetup,
    AfterTrainingEpoch,
    MetricValue,
    TrainingFinally,
)
from trainwire.training.model.models import BEST_MODEL, FINAL_MODEL, MODEL_CARD, class_of, count_parameters
from trainwire.training.options.options import plain
from trainwire.training.plugin import Functions, Plugin
from trainwire_protocol.journal.files import write_atomically

PACKAGES: Final = ("trainwire", "torch", "torchmetrics", "numpy")
"""The packages whose versions are part of the card, if they are installed."""

Card = dict[str, Any]


class ModelCard(Plugin):
    """Writes `model-card.json` to the run's folder, and publishes it as the text `model_card`.

    The card contains the run and its outcome, the versions of Python and of some packages, the model's class and number
    of parameters, the options, the plugins with their public attributes, the scores, and the files with the model's
    weights. Rank 0 writes it at the start, after each epoch and at the end. The text is published at the start and at
    the end.
    """

    essential = False

    def __init__(self) -> None:
        self._started = ""
        self._scores: dict[str, MetricValue] = {}

    @hook
    def after_setup(self, setup: AfterSetup) -> None:
        """Write the card of the untrained model."""
        self._started, self._scores = _now(), {}
        self._write(card := self.card("running"))
        self._publish(card)

    @hook
    def after_evaluation(self, evaluation: AfterEvaluation) -> None:
        """Keep the latest scores of each split."""
        self._scores |= evaluation.metrics

    @hook
    def after_training_epoch(self, epoch: AfterTrainingEpoch) -> None:
        """Update the card."""
        self._write(self.card("running"))

    @hook
    def training_finally(self, ending: TrainingFinally) -> None:
        """Write the card with the outcome."""
        self._write(card := self.card(ending.status, ending.reason, _now()))
        self._publish(card)

    def state_dict(self) -> dict[str, Any]:
        """Return the start of the training, and the latest scores."""
        return {"started": self._started, "scores": dict(self._scores)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self._started, self._scores = state["started"], dict(state["scores"])

    def card(self, status: str, reason: str | None = None, ended: str | None = None) -> Card:
        """Return the card of the run in its current state."""
        run, kind = self.run, class_of(self.run.model)
        return {
            "run": {
                "name": run.bus.run, "status": status, "reason": reason, "started": self._started, "ended": ended,
            },
            "versions": package_versions(),
            "model": {
                "class": f"{kind.__module__}.{kind.__qualname__}",
                "parameters": sum(parameter.numel() for parameter in run.model.parameters()),
                "trainable_parameters": count_parameters(run.model),
            },
            "options": dict(run.bus.hyperparameters),
            "plugins": [describe_plugin(plugin) for plugin in run.plugins if not isinstance(plugin, Functions)],
            "results": {
                "epochs": run.state.epoch.number, "steps": run.state.step,
                "main_metric": run.main_metric and run.main_metric.name,
                "best_epoch": run.state.best_epoch, "best_score": run.state.best_score, "scores": dict(self._scores),
            },
            "files": [name for name in (BEST_MODEL, FINAL_MODEL) if (run.folder / name).exists()],
        }  # fmt: skip

    def _write(self, card: Card) -> None:
        if self.run.bus.rank == 0:
            text = json.dumps(_for_json(card), indent=2, ensure_ascii=False)
            write_atomically(self.run.folder / MODEL_CARD, f"{text}\n".encode())

    def _publish(self, card: Card) -> None:
        self.run.bus.text("model_card", as_markdown(card), self.run.state.step)


def package_versions() -> dict[str, str]:
    """Return the versions of Python and of those of `PACKAGES` that are installed."""
    versions = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return versions


def describe_plugin(plugin: BasePlugin[Any]) -> dict[str, Any]:
    """Return the name of a plugin's class, and its public attributes that have plain values."""
    kinds = (type(None), bool, int, float, str, list, tuple, dict)
    return {"plugin": type(plugin).__name__} | {
        name: plain(value)
        for name, value in vars(plugin).items()
        if not name.startswith("_") and isinstance(value, kinds)
    }


def as_markdown(card: Card) -> str:
    """Return the card as Markdown, with a heading for each part and a line for each item."""
    parts = []
    for title, items in card.items():
        pairs = items.items() if isinstance(items, Mapping) else enumerate(items, start=1)
        lines = [
            f"- {name}: `{value if isinstance(value, str) else json.dumps(_for_json(value), ensure_ascii=False)}`"
            for name, value in pairs
        ]
        parts.append("\n".join([f"## {title.capitalize()}", "", *lines]))
    return "\n\n".join(parts) + "\n"


def _for_json(value: Any) -> Any:
    """Replace NaN and infinities, which JSON does not have, with strings that `float` accepts."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, Mapping):
        return {str(key): _for_json(item) for key, item in value.items()}
    return [_for_json(item) for item in value] if isinstance(value, (list, tuple)) else value


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
