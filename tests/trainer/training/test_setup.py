"""The setup of a training: invalid combinations are refused before anything is opened."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from support.tiny_training import corpus, linear, make_trainer, train
from torch import nn
from torch.optim import SGD, AdamW
from torch.optim.lr_scheduler import ExponentialLR

from trainwire import Forward, ModelTrainer, TrainingOptions
from trainwire.plugins.annealing import AnnealingOnPlateau
from trainwire.plugins.checkpoints import Checkpoints
from trainwire.plugins.linear_schedule import LinearSchedule
from trainwire.plugins.torch_scheduler import TorchScheduler
from trainwire_protocol.errors import OptionError, UsageError
from trainwire_protocol.journal.run_folder import list_attempts


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"optimizer": SGD(linear().parameters(), 0.1)}, "has no parameter of the model Linear"),
        ({"decoder_learning_rate": 0.5, "optimizer": SGD(linear().parameters(), 0.1)}, "keeps its learning rates"),
        ({"dev_name": "development"}, "dev_name is 'development'; it must be 'dev' or 'val'"),
        ({"plugins": [LinearSchedule(), AnnealingOnPlateau()]}, "LinearSchedule and AnnealingOnPlateau each set"),
        ({"plugins": [TorchScheduler(ExponentialLR)]}, "TorchScheduler: .*gamma.*; make must be a function"),
    ],
)
def test_an_invalid_combination_is_refused_before_training(
    tmp_path: Path, arguments: dict[str, Any], message: str
) -> None:
    """The error names the invalid part, and nothing is written."""
    plugins = arguments.pop("plugins", [])
    with pytest.raises(OptionError, match=message):
        train(tmp_path, *plugins, **arguments)
    assert not (tmp_path / "final-model.pt").exists()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: TorchScheduler(3), "make is 3; it must be a class, or a function"),  # type: ignore[arg-type]  # the test
        (lambda: ModelTrainer(nn.LazyLinear(2), loss=nn.MSELoss()), "lazy parameters without a shape"),
        (lambda: ModelTrainer(linear(), loss=nn.MSELoss), "loss is <class"),
        (lambda: make_trainer(metrics=print), "metrics is <built-in function print>"),
    ],
)
def test_an_invalid_argument_is_refused_by_the_constructor(make: Any, message: str) -> None:
    """The error names a class given instead of an object, or an object of the wrong type."""
    with pytest.raises(OptionError, match=message):
        make()


def test_an_empty_run_folder_is_refused() -> None:
    """It would mean the current directory."""
    with pytest.raises(OptionError, match="run_folder is ''"):
        make_trainer().train("", corpus=corpus())


@pytest.mark.parametrize(("returned", "message"), [((1, 2), "a tuple"), (None, "a NoneType")])
def test_forward_must_return_a_forward(tmp_path: Path, returned: object, message: str) -> None:
    """The error says what to return."""

    class Wrong(ModelTrainer):
        def forward(self, batch: Any) -> Forward:
            return returned  # type: ignore[return-value]  # what the test is about

    with pytest.raises(UsageError, match=f"forward returned {message}: return trainwire.Forward"):
        train(tmp_path, trainer=Wrong(linear()))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"trainer": make_trainer(nn.Linear(4, 2, bias=False))}, "the model's bias is missing, but"),
        ({"optimizer": AdamW, "learning_rate": 0.1}, "the optimizer is AdamW, but .* was SGD"),
        ({"corpus": corpus(train=32)}, "the number of training samples is 32, but .* was 48"),
    ],
)
def test_resuming_with_other_parts_is_refused(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    """Another model, optimizer or number of samples is refused, and no attempt is added."""
    train(tmp_path, Checkpoints(epochs=1))
    with pytest.raises(OptionError, match=message):
        train(tmp_path, resume=True, **change)
    assert len(list_attempts(tmp_path, 0)) == 1


def test_the_options_are_public() -> None:
    """`trainwire.TrainingOptions` can be imported."""
    assert TrainingOptions().learning_rate == 0.1
