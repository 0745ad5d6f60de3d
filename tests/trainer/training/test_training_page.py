"""`docs/training.md` matches the code, and its examples run."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from support.paths import DOCS
from support.tiny_training import linear, points
from torch import nn
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from trainwire import TrainingOptions
from trainwire.training.options.options import DEFAULTS


class Last(nn.GRU):
    """Returns the last state of each sequence; time is the first dimension."""

    def __init__(self) -> None:
        super().__init__(4, 1)

    def forward(self, inputs: torch.Tensor) -> Any:  # type: ignore[override]  # as a batch has one input
        return super().forward(inputs)[1][-1]


class PointStream(IterableDataset[Any]):
    """Points without a length."""

    def __iter__(self) -> Iterator[Any]:
        return iter(points(32))


PAGE = (DOCS / "training.md").read_text()


def shown(value: object) -> str:
    """Return a default as the page writes it."""
    return f"`{value.__name__}`" if isinstance(value, type) else f"`{value!r}`"


def test_the_page_has_every_option_with_its_defaults() -> None:
    """The table has them in order, with the defaults of `fine_tune` where they differ."""
    found = re.findall(r"^\| `(\w+)` \| (`.*?`) \| .+ \|$", PAGE, flags=re.MULTILINE)
    recipes = [TrainingOptions.from_keywords({}, method) for method in DEFAULTS]
    expected = []
    for option in dataclasses.fields(TrainingOptions):
        defaults = [shown(getattr(recipe, option.name)) for recipe in recipes]
        expected.append((option.name, ", ".join(dict.fromkeys(defaults))))
    assert found == expected


def test_the_snippets_train(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The page's examples run, given a model and data."""
    monkeypatch.chdir(tmp_path)
    known = {
        "model": linear(), "data": points(32), "dev": points(16), "test": points(16), "stream": PointStream(),
        "torch": torch,
    }  # fmt: skip
    for snippet in re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL):
        exec(snippet, known)
    batches = [{"inputs": inputs, "label": label} for inputs, label in points(32)]
    result = known["MapTrainer"](linear(), loss=known["nn"].CrossEntropyLoss()).train(
        "runs/maps", train=batches, max_epochs=1, sinks=()
    )
    assert result.steps == 1
    trainer = known["RegularizedTrainer"](linear(), loss=known["nn"].CrossEntropyLoss())
    assert {"loss", "ce", "size"} == trainer.evaluate(points(8)).keys()
    tokens: Any = TensorDataset(torch.randn(8, 5, 4), torch.randn(8, 5), torch.arange(8)[:, None] > torch.arange(5))
    result = known["TokenTrainer"](nn.Linear(4, 1)).train("runs/tokens", train=tokens, max_epochs=1, sinks=())
    assert result.steps == 1
    batches = [(torch.randn(5, 8, 4), torch.randn(8, 1))]
    result = known["TimeFirstTrainer"](Last(), loss=nn.MSELoss()).train(
        "runs/time", train=DataLoader(batches, None), mini_batch_chunk_size=3, max_epochs=1, sinks=()
    )
    assert result.steps == 1
    gan = nn.Module()
    gan.generator, gan.critic = nn.Linear(2, 2), nn.Linear(2, 1)
    result = known["GanTrainer"](gan).train(
        "runs/gan", train=TensorDataset(torch.randn(8, 2)), optimizer=known["optimizers"], max_epochs=2, sinks=()
    )
    assert result.history[-1].keys() >= {"train/loss/critic", "learning_rate/generator"}
