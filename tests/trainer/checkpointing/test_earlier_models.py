"""The models of an earlier training in the folder of a new one."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.tiny_training import points, train

from trainwire import Plugin, hook
from trainwire.plugins.checkpoints import Checkpoints
from trainwire.plugins.epoch_models import EpochModels
from trainwire.plugins.model_card import ModelCard
from trainwire.training.hooks.payloads import AfterTrainingEpoch


class Own(Plugin):
    """Saves a model under a name of its own."""

    @hook(once=1)
    def after_training_epoch(self, epoch: AfterTrainingEpoch) -> None:
        self.run.save_model("own.pt", "own")


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.suffix in (".pt", ".json")}


def test_the_models_of_an_earlier_training_are_kept_aside(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """They are renamed after the attempt, and reported; other files in the folder keep their names."""
    train(tmp_path, EpochModels(), Own(), ModelCard(), save_optimizer_state=True)
    (tmp_path / "pretrained.pt").write_bytes(b"mine")
    before = files(tmp_path)
    train(tmp_path, train=points(16), max_epochs=1)
    after = files(tmp_path)
    for name in ("best-model", "model-epoch-1", "model-epoch-2", "own"):
        for suffix in (".pt", ".optimizer.pt"):
            file = Path(name + suffix)
            assert file.name not in after
            assert after[f"{file.stem}.attempt-0.pt"] == before[file.name]
    assert after["model-card.attempt-0.json"] == before["model-card.json"]
    assert after["final-model.attempt-0.pt"] == before["final-model.pt"] != after["final-model.pt"]
    assert after["pretrained.pt"] == b"mine"
    assert "best-model.pt as best-model.attempt-0.pt" in caplog.text


def test_each_earlier_training_has_its_own_names(tmp_path: Path) -> None:
    """A third training keeps the models of the second one beside those of the first one."""
    for learning_rate in (0.1, 0.2, 0.3):
        train(tmp_path, max_epochs=1, learning_rate=learning_rate)
    found = {name: data for name, data in files(tmp_path).items() if name.startswith("best-model")}
    assert found.keys() == {"best-model.pt", "best-model.attempt-0.pt", "best-model.attempt-1.pt"}
    assert len(set(found.values())) == 3


def test_a_resumed_training_keeps_its_models(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """They are its own."""
    train(tmp_path, Checkpoints(epochs=1))
    train(tmp_path, max_epochs=3, resume=True)
    assert not list(tmp_path.glob("*attempt*"))
    assert "under other names" not in caplog.text


def test_scores_of_an_earlier_training_are_not_compared(tmp_path: Path) -> None:
    """`keep_best` keeps the best checkpoints of the new training."""

    class Score(Plugin):
        before = ("BestModel",)

        def __init__(self, *scores: float) -> None:
            self.scores = scores

        @hook
        def after_training_epoch(self, epoch: AfterTrainingEpoch) -> None:
            self.run.record_epoch({"dev/accuracy": self.scores[epoch.epoch - 1]})

    checkpoints = Checkpoints(epochs=1, keep_last=1, keep_best=1)
    train(tmp_path, Score(0.9, 0.8), checkpoints)
    train(tmp_path, Score(0.3, 0.5, 0.4), checkpoints, max_epochs=3)
    kept = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    assert kept == ["step-00000006-attempt-1-epoch-end", "step-00000009-attempt-1-epoch-end"]
