"""Batches that are split into chunks."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from support.run_reader import read_events
from support.tiny_training import linear, make_trainer, train

from trainwire.training.data import split_batch


@pytest.mark.parametrize("size", [5, 8, 16, 100])
def test_chunks_give_the_same_training_as_whole_batches(tmp_path: Path, size: int) -> None:
    """Weights, losses and gradient norms equal those of whole batches, even if the last chunk is smaller."""
    whole, chunked = linear(), linear()
    train(tmp_path / "a", trainer=make_trainer(whole))
    train(tmp_path / "b", trainer=make_trainer(chunked), mini_batch_chunk_size=size)
    torch.testing.assert_close(whole.weight, chunked.weight)

    def scalars(folder: str) -> list[Any]:
        events = [event for event in read_events(tmp_path / folder) if event.type == "scalar"]
        return [(event.name, event.step, pytest.approx(event.value, rel=1e-5)) for event in events]

    assert scalars("a") == scalars("b")


class Pair(NamedTuple):
    inputs: torch.Tensor
    names: list[str]


def test_tensors_and_lists_as_long_as_the_batch_are_split() -> None:
    """Tensors and lists in tuples and maps are split; single values are not."""
    batch = {"pair": Pair(torch.arange(3), ["a", "b", "c"]), "scale": torch.tensor(2.0), "kind": "test"}
    first, second = split_batch(batch, 2)
    assert first["pair"].inputs.tolist() == [0, 1]
    assert second["pair"].inputs.tolist() == [2]
    assert (first["pair"].names, second["pair"].names) == (["a", "b"], ["c"])
    assert (second["scale"].item(), second["kind"]) == (2.0, "test")
    assert split_batch(batch, 3) == [batch]
