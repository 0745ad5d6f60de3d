"""Messages about what is likely to be mistaken."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

import pytest
from support.tiny_training import linear, make_trainer, points, train
from torch import nn
from torch.optim.lr_scheduler import CosineAnnealingLR, OneCycleLR, PolynomialLR
from torch.utils.data import BatchSampler, DataLoader, IterableDataset, SequentialSampler, SubsetRandomSampler

from trainwire.plugins.linear_schedule import LinearSchedule
from trainwire.plugins.torch_scheduler import TorchScheduler
from trainwire.training.options.options import TrainingOptionsDict
from trainwire.training.options.other_trainers import REPLACEMENTS
from trainwire_protocol.errors import OptionError, UsageError


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"patience": 3, "anneal_factor": 0.5}, ["AnnealingOnPlateau(patience=…)", "AnnealingOnPlateau(factor=…)"]),
        ({"base_path": "x"}, ["run_folder"]), ({"lr": 0.1, "epochs": 3}, ["learning_rate", "max_epochs"]),
        ({"weight_decay": 0.1}, ["optimizer_arguments={'weight_decay': …}"]),
        ({"callbacks": []}, ["plugins=[…]"]), ({"embeddings_storage_mode": "cpu"}, ["nothing"]),
        ({"use_swa": True}, ["SWA(…)] of trainwire.plugins.swa"]),
        ({"batch_size": 3, "sede": 1}, ["'batch_size': mini_batch_size", "by 'sede', did you mean 'seed'?"]),
    ],
)  # fmt: skip
def test_options_of_other_trainers_are_explained(tmp_path: Path, given: dict[str, Any], words: list[str]) -> None:
    """All unknown options are in one error, with what replaces each, even if the folder is among them."""
    for start in (lambda: train(tmp_path, **given), lambda: make_trainer().train(train=points(8), **given)):
        with pytest.raises(OptionError) as raised:
            start()
        assert all(word in str(raised.value) for word in [*words, *map(repr, given)])


def test_replacements_exist() -> None:
    """They name plugins and options that exist, and are not options themselves."""
    options = set(TrainingOptionsDict.__annotations__)
    assert not REPLACEMENTS.keys() & options
    for text in REPLACEMENTS.values():
        for plugin, module in re.findall(r"\[(\w+)\(.*?\)\] of ([\w.]+)", text):
            assert hasattr(import_module(module), plugin)


def test_a_run_folder_is_needed() -> None:
    """Without one, the error names it."""
    with pytest.raises(OptionError, match="run_folder is ''; it must be the path of a folder"):
        make_trainer().train(train=points(8))


@pytest.mark.parametrize("split", ["train", "dev"])
def test_a_loader_that_drops_everything_is_explained(tmp_path: Path, split: str) -> None:
    """The error says why there are no batches."""
    data = points(8)
    loaders = {
        r"drops batches of less than 16 samples \(drop_last=True\), and there are 8": [
            DataLoader(data, 16, drop_last=True),
            DataLoader(data, batch_sampler=BatchSampler(SequentialSampler(data), 16, drop_last=True)),
        ],
        "its sampler selects none of its 8": [DataLoader(data, 4, sampler=SubsetRandomSampler([]))],
    }
    for reason, kinds in loaders.items():
        for loader in kinds:
            with pytest.raises(OptionError, match=f"{split} is empty: .*{reason} samples"):
                train(tmp_path, **{"train": points(8), split: loader})


class Stream(IterableDataset[Any]):
    """Five points, of which the loader does not know the number, or is told a wrong one."""

    def __init__(self, length: int | None = None) -> None:
        if length is not None:
            self.__class__ = type("Sized", (Stream,), {"__len__": lambda _: length})

    def __iter__(self) -> Iterator[Any]:
        return iter(points(5))


def test_a_stream_of_which_everything_is_dropped_is_explained(tmp_path: Path) -> None:
    """Its length is unknown before the first epoch."""
    with pytest.raises(UsageError, match=r"no batches in epoch 1: .* does not drop all batches \(drop_last=True\)"):
        train(tmp_path, train=DataLoader(Stream(), 16, drop_last=True))


@pytest.mark.parametrize("sizes", [{"mini_batch_size": 8}, {"mini_batch_size": 9, "mini_batch_chunk_size": 2}])
def test_a_batch_or_chunk_of_one_before_a_batch_norm_has_a_remedy(tmp_path: Path, sizes: dict[str, Any]) -> None:
    """It is a note of torch's error, which is also in the log."""
    model = nn.Sequential(linear(), nn.BatchNorm1d(2))
    with pytest.raises(ValueError, match="more than 1 value per channel") as raised:
        train(tmp_path, trainer=make_trainer(model), train=points(9), **sizes)
    assert any("mini_batch_size" in note and "drop_last=True" in note for note in raised.value.__notes__)
    assert any("mini_batch_chunk_size" in note for note in raised.value.__notes__)


def one_cycle(steps: int, per: Literal["batch", "epoch"]) -> TorchScheduler:
    return TorchScheduler(lambda optimizer: OneCycleLR(optimizer, 0.1, total_steps=steps), per=per)


@pytest.mark.parametrize(("per", "steps"), [("batch", 6), ("epoch", 2)])
def test_a_schedule_that_is_too_short_is_refused(tmp_path: Path, per: Literal["batch", "epoch"], steps: int) -> None:
    """Before the first batch; one of the training's length is not."""
    words = f"total_steps={steps - 1}, and the training has .*; pass total_steps={steps}"
    with pytest.raises(OptionError, match=words):
        train(tmp_path / "short", one_cycle(steps - 1, per), train=points(48))
    assert train(tmp_path / "fits", one_cycle(steps, per), train=points(48)).status == "finished"


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda optimizer: CosineAnnealingLR(optimizer, 1), "T_max=1, and the training has 2 epochs: it rises again"),
        (lambda optimizer: PolynomialLR(optimizer, 1), "total_iters=1, and .* the learning rate is 0 after it"),
        (lambda optimizer: OneCycleLR(optimizer, 0.1, total_steps=6), "pass per='batch' if it counts batches"),
        (lambda optimizer: CosineAnnealingLR(optimizer, 2), None),
    ],
)
def test_other_lengths_are_reported(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, make: Any, words: str | None
) -> None:
    """A schedule that ends before the training, or does not come to its end, may be intended."""
    train(tmp_path, TorchScheduler(make), train=points(48))
    assert len(warnings(caplog)) == (words is not None)
    assert words is None or re.search(words, warnings(caplog)[0])


def test_a_linear_schedule_that_ends_early_is_reported_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """As for a stream that is longer than it says."""
    with pytest.warns(UserWarning, match="Length of IterableDataset"):
        train(tmp_path, LinearSchedule(), train=DataLoader(Stream(2), 1), max_epochs=2)
    (warning,) = [text for text in warnings(caplog) if "LinearSchedule" in text]
    assert "the learning rate is 0 since step 4" in warning
