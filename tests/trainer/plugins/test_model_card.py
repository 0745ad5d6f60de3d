"""The model card."""

from __future__ import annotations

import json
import math
import platform
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
import torch
from support.run_reader import read_events
from support.tiny_training import make_trainer, train

from trainwire import Plugin, hook
from trainwire.plugins.early_stopping import EarlyStopping
from trainwire.plugins.model_card import ModelCard, as_markdown
from trainwire.training.hooks.payloads import AfterTrainingEpoch


def card_of(folder: Path) -> dict[str, Any]:
    card: dict[str, Any] = json.loads((folder / "model-card.json").read_text())
    return card


def test_the_card_describes_the_model_and_its_training(tmp_path: Path) -> None:
    """The final card contains run, versions, model, options, plugins, scores and files."""
    result = train(tmp_path, ModelCard(), EarlyStopping(patience=7))
    card = card_of(tmp_path)
    assert (card["run"]["status"], card["run"]["reason"]) == ("finished", result.reason)
    assert datetime.fromisoformat(card["run"]["started"]) <= datetime.fromisoformat(card["run"]["ended"])
    assert card["versions"]["torch"] == str(torch.__version__)
    assert card["versions"]["python"] == platform.python_version()
    assert card["model"] == {
        "class": "torch.nn.modules.linear.Linear", "parameters": 10, "trainable_parameters": 10,
    }  # fmt: skip
    assert (card["options"]["mini_batch_size"], card["options"]["seed"]) == (16, 1)
    assert {"plugin": "EarlyStopping", "patience": 7, "min_delta": 0.0} in card["plugins"]
    assert "Functions" not in [plugin["plugin"] for plugin in card["plugins"]]
    assert (card["results"]["best_epoch"], card["results"]["steps"]) == (result.best_epoch, 6)
    assert card["results"]["scores"].items() >= result.test_metrics.items()
    assert card["files"] == ["best-model.pt", "final-model.pt"]


def test_the_card_is_written_during_the_training(tmp_path: Path) -> None:
    """The card lists the best model as soon as an epoch has ended."""
    seen: list[dict[str, Any]] = []
    trainer = make_trainer()
    trainer.on("before_training_epoch")(lambda epoch: seen.append(card_of(tmp_path)))
    train(tmp_path, ModelCard(), trainer=trainer)
    assert [(card["run"]["status"], card["results"]["best_epoch"], card["files"]) for card in seen] == [
        ("running", None, []), ("running", 1, ["best-model.pt"]),
    ]  # fmt: skip


def test_the_card_is_published(tmp_path: Path) -> None:
    """The card is published as Markdown at the start and at the end."""
    train(tmp_path, ModelCard())
    first, last = (event for event in read_events(tmp_path) if event.name == "model_card")
    assert (first.type, first.step, last.step) == ("text", 0, 6)
    assert "## Model\n\n- class: `torch.nn.modules.linear.Linear`\n- parameters: `10`" in first.value
    assert "- status: `running`" in first.value
    assert "- status: `finished`" in last.value


def test_a_failed_training_has_a_card(tmp_path: Path) -> None:
    """The card contains the reason for the failure, and a score that is not finite is valid JSON."""

    class Failing(Plugin):
        @hook
        def after_training_epoch(self, epoch: AfterTrainingEpoch) -> None:
            raise ValueError("failure of the test")

    card = ModelCard()
    with pytest.raises(ValueError, match="failure of the test"):
        train(tmp_path, card, Failing())
    assert card_of(tmp_path)["run"]["reason"] == "ValueError: failure of the test"
    assert '`["nan", 1.0]`' in as_markdown({"results": {"scores": [math.nan, 1.0]}})


def test_its_state_contains_start_and_scores() -> None:
    """The start and the scores are restored when a training is resumed."""
    card, state = ModelCard(), {"started": "2026-01-02T03:04:05+00:00", "scores": {"dev/loss": 0.5}}
    card.load_state_dict(state)
    assert card.state_dict() == state
