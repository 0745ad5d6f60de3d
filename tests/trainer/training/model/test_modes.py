"""The modes of modules: what the program puts into evaluation mode stays in it."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from support.tiny_training import corpus, linear, make_trainer, points, train
from torch import Tensor, nn
from torch.utils.data import DataLoader

from trainwire.plugins.checkpoints import Checkpoints
from trainwire.plugins.ema import EMA
from trainwire.plugins.swa import SWA
from trainwire.training.model.modes import Modes


class Network(nn.Module):
    """A backbone with a batch norm, dropout, and a head with a batch norm."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4))
        self.dropout = nn.Dropout(0.5)
        self.head = nn.Sequential(nn.BatchNorm1d(4), nn.Linear(4, 2))

    def forward(self, inputs: Tensor) -> Tensor:
        output: Tensor = self.head(self.dropout(self.backbone(inputs)))
        return output

    @property
    def moved(self) -> tuple[bool, bool]:
        """Whether the statistics of the backbone and those of the head have changed."""
        return bool(self.backbone[1].running_mean.any()), bool(self.head[0].running_mean.any())


class Frozen(Network):
    """Keeps its backbone in evaluation mode."""

    def train(self, mode: bool = True) -> Network:
        super().train(mode)
        self.backbone.eval()
        return self


def named(model: nn.Module, *, training: bool) -> set[str]:
    return {name for name, module in model.named_modules() if module.training == training}


BACKBONE = {"backbone", "backbone.0", "backbone.1"}


@pytest.mark.parametrize("hook", ["", "after_setup", "before_training_epoch", "before_training_batch"])
@pytest.mark.parametrize("plugin", [None, EMA, lambda: SWA(1)])
def test_a_frozen_submodule_stays_in_evaluation_mode(
    tmp_path: Path, hook: str, plugin: Callable[[], Any] | None
) -> None:
    """It does so wherever it was frozen, through evaluations and averaged weights, and the others are trained."""
    model = Network()
    model.backbone.requires_grad_(False)
    trainer = make_trainer(model)
    if hook:
        trainer.on(hook, **({} if hook == "after_setup" else {"once": 1}))(lambda payload: model.backbone.eval())
    else:
        model.backbone.eval()

    @trainer.on("after_training_batch")
    def evaluate(batch: object) -> None:
        trainer.control.evaluate()

    train(tmp_path, *([plugin()] if plugin else []), trainer=trainer)
    assert model.moved == (False, True)
    assert named(model, training=False) == BACKBONE


def test_an_overridden_train_is_respected(tmp_path: Path) -> None:
    """A model that keeps a part in evaluation mode by its own `train` needs nothing else."""
    model = Frozen()
    model.eval()
    train(tmp_path, trainer=make_trainer(model))
    assert model.moved == (False, True)


def test_a_part_that_was_put_back_into_training_mode_is_trained(tmp_path: Path) -> None:
    """`model.eval(); model.head.train()` trains the head in training mode, and nothing else."""
    model = Network()
    model.eval()
    model.head.train()
    train(tmp_path, trainer=make_trainer(model))
    assert model.moved == (False, True)
    assert not model.training


@pytest.mark.parametrize("hook", ["", "after_training_epoch", "after_training_batch", "before_evaluation"])
def test_a_model_left_in_evaluation_mode_is_put_into_training_mode(tmp_path: Path, hook: str) -> None:
    """A model in evaluation mode at the start, or after a hook, is trained as plain PyTorch trains it."""
    model = Network()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    trainer = make_trainer(model)
    data = points(48)
    loader = DataLoader(data, 16)
    if hook:
        trainer.on(hook)(lambda payload: model.eval())
    else:
        model.eval()
    torch.manual_seed(3)
    train(
        tmp_path, trainer=trainer, train=loader, corpus=None, dev=data, learning_rate=0.1, max_grad_norm=None,
        attach_default_scheduler=False, seed=None, use_final_model_for_eval=True,
    )  # fmt: skip
    expected = Network()
    expected.load_state_dict(before)
    torch.manual_seed(3)
    torch.randint(2**31, ())  # the trainer draws its seed
    optimizer = torch.optim.SGD(expected.parameters(), 0.1)
    for _ in range(2):
        for inputs, labels in loader:
            optimizer.zero_grad()
            nn.functional.cross_entropy(expected(inputs), labels).backward()
            optimizer.step()
    assert model.moved == (True, True)
    for name, value in expected.state_dict().items():
        torch.testing.assert_close(model.state_dict()[name], value)


def test_modes_are_resumed(tmp_path: Path) -> None:
    """A part that a hook froze in the first epoch is still in evaluation mode after resuming in the second."""

    def run(epochs: int) -> Network:
        model = Network()
        trainer = make_trainer(model)

        @trainer.on("before_training_epoch", once=1)
        def freeze(epoch: object) -> None:
            model.backbone.eval()

        train(tmp_path, Checkpoints(epochs=1), trainer=trainer, max_epochs=epochs, resume=True)
        return model

    run(1)
    model = run(2)
    assert model.moved == (False, True)
    assert named(model, training=False) == BACKBONE


def test_evaluation_modes_can_be_nested() -> None:
    """After the inner one the model is still in evaluation mode; after the outer one each module has its own again."""
    model = Network()
    model.backbone.eval()
    modes = Modes(model)
    with modes.evaluation():
        with modes.evaluation():
            assert not torch.is_grad_enabled()
        assert not named(model, training=True)
    assert named(model, training=False) == BACKBONE
    assert torch.is_grad_enabled()


def test_a_trainable_part_in_evaluation_mode_is_reported(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The warning names the outermost modules; a frozen part is not mentioned."""
    model = Network()
    model.backbone.eval()
    with caplog.at_level(logging.WARNING):
        train(tmp_path / "trainable", trainer=make_trainer(model), max_epochs=1)
        assert [record.message for record in caplog.records if "evaluation mode" in record.message] == [
            "modules with trainable parameters are in evaluation mode, and stay in it: backbone; call model.train() "
            "before the training if that is not intended"
        ]
        caplog.clear()
        model.backbone.requires_grad_(False)
        train(tmp_path / "frozen", trainer=make_trainer(model), max_epochs=1)
    assert "evaluation mode" not in caplog.text


def test_a_linear_model_in_evaluation_mode(tmp_path: Path) -> None:
    """A model without parts is put into training mode too."""
    model = linear().eval()
    train(tmp_path, trainer=make_trainer(model), corpus=corpus(), max_epochs=1)
    assert model.training
