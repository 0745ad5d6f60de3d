"""The dry run: invalid combinations are refused before anything is opened."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from support.tiny_training import corpus, linear, make_trainer, points, train
from torch import Tensor, nn
from torch.optim import LBFGS, SGD, AdamW
from torch.optim.lr_scheduler import ExponentialLR
from torch.utils.data import DataLoader, IterableDataset, TensorDataset
from torchmetrics import Metric, PearsonCorrCoef

from trainwire import Forward, ModelTrainer, TrainingOptions
from trainwire.plugins.annealing import AnnealingOnPlateau
from trainwire.plugins.checkpoints import Checkpoints
from trainwire.plugins.linear_schedule import LinearSchedule
from trainwire.plugins.torch_scheduler import TorchScheduler
from trainwire_protocol.errors import OptionError, UsageError
from trainwire_protocol.journal.run_folder import list_attempts


class Parts(Metric):
    """A metric whose value is a map."""

    higher_is_better = True

    def __init__(self) -> None:
        super().__init__()
        self.add_state("seen", torch.zeros(()))

    def update(self, output: Tensor, target: Tensor) -> None:
        self.seen += len(target)

    def compute(self) -> dict[str, Tensor]:
        return {"f1": self.seen * 0 + 0.5, "recall": self.seen * 0 + 0.25}


def wide(count: int) -> TensorDataset:
    return TensorDataset(torch.zeros(count, 5), torch.zeros(count, dtype=torch.long))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"train": wide(8)}, r"the dry run failed on a batch of train \(float32\[2, 5\], int64\[2\]\): RuntimeError"),
        ({"train": points(8), "dev": wide(8)}, r"the dry run failed on a batch of dev \(float32\[2, 5\]"),
        ({"train": TensorDataset(torch.zeros(8, 4), torch.zeros(8))}, r"batch of train .*float32\[2\]"),
        ({"optimizer": LBFGS}, "LBFGS is not supported: it evaluates the loss"),
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
    """The error names the part and the split, and no epoch has started."""
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


def test_the_dry_run_has_no_side_effects(tmp_path: Path) -> None:
    """Random states, metrics and weights are the same as without it."""

    class Drawing(TensorDataset):
        def __getitem__(self, index: int) -> Any:
            inputs, label = super().__getitem__(index)
            return inputs + torch.rand(4), label

    def weights(*, streamed: bool) -> Tensor:
        torch.manual_seed(1)
        model = nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.5), nn.Linear(8, 2))
        data = Drawing(*points(32).tensors)
        source = DataLoader(_Batches(data), None) if streamed else DataLoader(data, 8)
        train(tmp_path / str(streamed), trainer=make_trainer(model), train=source, dev=points(8), max_epochs=1)
        return model[0].weight.detach()

    torch.testing.assert_close(weights(streamed=True), weights(streamed=False))


class _Batches(IterableDataset[Any]):
    """A stream, which the dry run leaves out."""

    def __init__(self, data: TensorDataset) -> None:
        self.data = data

    def __iter__(self) -> Any:
        for first in range(0, len(self.data), 8):
            samples = [self.data[index] for index in range(first, first + 8)]
            yield torch.stack([inputs for inputs, _ in samples]), torch.stack([label for _, label in samples])


def test_a_metric_of_several_numbers_is_chosen_by_name(tmp_path: Path) -> None:
    """One number of a map can be the main metric; the map cannot."""
    with pytest.raises(OptionError, match="set main_evaluation_metric to dev/parts/f1 or dev/parts/recall"):
        train(tmp_path / "a", trainer=make_trainer(metrics={"parts": Parts()}))
    trainer = make_trainer(metrics={"parts": Parts()})
    result = train(tmp_path / "b", trainer=trainer, main_evaluation_metric="dev/parts/recall")
    assert result.best_score == 0.25


@pytest.mark.filterwarnings("ignore:The variance of predictions")
def test_a_metric_that_needs_more_samples_is_accepted(tmp_path: Path) -> None:
    """The dry run ignores that it cannot be computed for two samples."""

    class Regression(ModelTrainer):
        pass

    data = TensorDataset(torch.randn(32, 4), torch.randn(32))
    model = nn.Sequential(nn.Linear(4, 1), nn.Flatten(0))
    trainer = Regression(model, loss=nn.MSELoss(), metrics={"correlation": PearsonCorrCoef()})
    assert train(tmp_path, trainer=trainer, train=data, dev=data, main_evaluation_metric="dev/loss").steps == 4


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
