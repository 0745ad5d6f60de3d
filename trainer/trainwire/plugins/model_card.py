"""What a model is and how it came to be, saved beside it."""

from __future__ import annotations

import json
import math
import platform
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib import metadata
from typing import Any, Final

from trainwire.training.hooks.hooks import hook
from trainwire.training.hooks.payloads import (
    AfterEvaluation,
    AfterSetup,
    AfterTrainingEpoch,
    MetricValue,
    TrainingFinally,
)
from trainwire.training.hooks.plugin import BasePlugin
from trainwire.training.models import BEST_MODEL, FINAL_MODEL, count_parameters
from trainwire.training.options import plain
from trainwire.training.plugin import Functions, Plugin
from trainwire_protocol.journal.files import write_atomically

MODEL_CARD: Final = "model-card.json"

PACKAGES: Final = ("trainwire", "torch", "torchmetrics", "numpy")
"""Those whose versions are noted, as far as they are installed."""

Card = dict[str, Any]


class ModelCard(Plugin):
    """Writes `model-card.json` into the run's folder, and its text onto the wire.

    It holds the run and how it ended, the versions of Python and of the packages, the model's class and parameters, the
    options, the plugins with their public attributes, the scores, and the files with the model's weights. It is written
    at the start, after each epoch and at the end, by rank 0; the text `model_card` is published at the start and at the
    end.
    """

    essential = False

    def __init__(self) -> None:
        self._started = ""
        self._scores: dict[str, MetricValue] = {}

    @hook
    def after_setup(self, setup: AfterSetup) -> None:  # noqa: ARG002  # every hook has its payload
        """Write the card of a model that is not trained yet."""
        self._started, self._scores = _now(), {}
        self._write("running")
        self._publish("running")

    @hook
    def after_evaluation(self, evaluation: AfterEvaluation) -> None:
        """Keep the scores: of each split the last ones."""
        self._scores |= evaluation.metrics

    @hook
    def after_training_epoch(self, epoch: AfterTrainingEpoch) -> None:  # noqa: ARG002  # every hook has its payload
        """Write what has come of it so far."""
        self._write("running")

    @hook
    def training_finally(self, ending: TrainingFinally) -> None:
        """Write how it ended."""
        self._write(ending.status, ending.reason, _now())
        self._publish(ending.status, ending.reason, _now())

    def state_dict(self) -> dict[str, Any]:
        """When the training started, and the last scores."""
        return {"started": self._started, "scores": dict(self._scores)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on with them."""
        self._started, self._scores = state["started"], dict(state["scores"])

    def card(self, status: str, reason: str | None = None, ended: str | None = None) -> Card:
        """The card as it is now."""
        run = self.run
        return {
            "run": {
                "name": run.bus.run, "status": status, "reason": reason, "started": self._started, "ended": ended,
            },
            "versions": versions(),
            "model": {
                "class": f"{type(run.model).__module__}.{type(run.model).__qualname__}",
                "parameters": sum(parameter.numel() for parameter in run.model.parameters()),
                "trainable_parameters": count_parameters(run.model),
            },
            "options": dict(run.bus.hyperparameters),
            "plugins": [described(plugin) for plugin in run.plugins if not isinstance(plugin, Functions)],
            "results": {
                "epochs": run.state.epoch.number, "steps": run.state.step,
                "main_metric": run.main_metric and run.main_metric.name,
                "best_epoch": run.state.best_epoch, "best_score": run.state.best_score, "scores": dict(self._scores),
            },
            "files": [name for name in (BEST_MODEL, FINAL_MODEL) if (run.folder / name).exists()],
        }  # fmt: skip

    def _write(self, status: str, reason: str | None = None, ended: str | None = None) -> None:
        if self.run.bus.rank == 0:
            text = json.dumps(_for_json(self.card(status, reason, ended)), indent=2, ensure_ascii=False)
            write_atomically(self.run.folder / MODEL_CARD, f"{text}\n".encode())

    def _publish(self, status: str, reason: str | None = None, ended: str | None = None) -> None:
        self.run.bus.text("model_card", as_markdown(self.card(status, reason, ended)), self.run.state.step)


def versions() -> dict[str, str]:
    """The versions of Python and of the packages that matter."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def described(plugin: BasePlugin[Any]) -> dict[str, Any]:
    """A plugin's class, and what it was made with and has become, as far as it is public and plain."""
    kinds = (type(None), bool, int, float, str, list, tuple, dict)
    return {"plugin": type(plugin).__name__} | {
        name: plain(value)
        for name, value in vars(plugin).items()
        if not name.startswith("_") and isinstance(value, kinds)
    }


def as_markdown(card: Card) -> str:
    """The card as Markdown: a heading for each part, and a line for each of its facts."""
    parts = []
    for title, facts in card.items():
        pairs = facts.items() if isinstance(facts, Mapping) else enumerate(facts, start=1)
        lines = [f"- {name}: {_written(value)}" for name, value in pairs]
        parts.append("\n".join([f"## {title.capitalize()}", "", *lines]))
    return "\n\n".join(parts) + "\n"


def _written(value: object) -> str:
    return f"`{value}`" if isinstance(value, str) else f"`{json.dumps(_for_json(value), ensure_ascii=False)}`"


def _for_json(value: Any) -> Any:
    """JSON has no NaN or infinity: they become the strings that Python's `float` reads."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, Mapping):
        return {str(key): _for_json(item) for key, item in value.items()}
    return [_for_json(item) for item in value] if isinstance(value, (list, tuple)) else value


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
