"""Failures on a batch: the exception keeps its type, and a note describes the batch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from support.run_reader import read_events
from support.tiny_training import make_trainer, points, train
from torch.utils.data import TensorDataset

from trainwire.training.data.failures import describe


def wide(count: int) -> TensorDataset:
    return TensorDataset(torch.zeros(count, 5), torch.zeros(count, dtype=torch.long))


@pytest.mark.parametrize(
    ("data", "note"),
    [
        ({"train": wide(8)}, r"in a batch of train: float32\[8, 5\], int64\[8\]"),
        ({"train": points(8), "dev": wide(3)}, r"in a batch of dev: float32\[3, 5\], int64\[3\]"),
        ({"train": points(8), "test": wide(6)}, r"in a batch of test: float32\[6, 5\], int64\[6\]"),
        ({"train": TensorDataset(torch.zeros(8, 4), torch.zeros(8))}, r"in a batch of train: .*float32\[8\]"),
    ],
)
def test_a_failure_names_the_split_and_describes_the_batch(tmp_path: Path, data: dict[str, Any], note: str) -> None:
    """The exception has torch's type; the run's reason contains the message and the note."""
    with pytest.raises((RuntimeError, ValueError), match=note) as failure:
        train(tmp_path, trainer=make_trainer(metrics={}), max_epochs=1, **data)
    last = read_events(tmp_path)[-1]
    assert last.name == "run/failed"
    assert last.value["reason"] == f"{failure.typename}: {failure.value} ({failure.value.__notes__[0]})"


def test_nested_batches_are_described() -> None:
    """The description has the types and shapes of tensors in sequences and maps, and the types of everything else."""
    batch = {"ids": torch.zeros(2, 3, dtype=torch.long), "parts": [torch.ones(1), "text"], "none": None}
    assert describe(batch) == "{'ids': int64[2, 3], 'parts': float32[1], str, 'none': NoneType}"
