"""Batches of all shapes."""

from __future__ import annotations

from typing import Any, NamedTuple

import pytest
import torch

from trainwire.training.data import inputs_and_target, samples_in, to_device
from trainwire_protocol.errors import UsageError

META = torch.device("meta")


class Pair(NamedTuple):
    image: Any
    label: Any


def test_every_tensor_moves_and_everything_keeps_its_shape() -> None:
    """Tuples, lists, named tuples and maps are walked through; strings and numbers stay as they are."""
    tensor = torch.zeros(3, 2)
    moved = to_device({"a": [tensor, "text"], "b": (tensor, 5), "c": Pair(tensor, None)}, META)
    assert moved["a"][0].device == moved["b"][0].device == moved["c"].image.device == META
    assert (moved["a"][1], moved["b"][1], moved["c"].label) == ("text", 5, None)
    assert isinstance(moved["c"], Pair)


def test_samples_are_counted_by_the_first_tensor() -> None:
    """The first tensor that has a dimension says how many samples there are; without one it is one sample."""
    assert samples_in((torch.zeros(7, 2), torch.zeros(3))) == 7
    assert samples_in({"scale": torch.tensor(1.0), "rows": [torch.zeros(4)]}) == 4
    assert samples_in("text") == samples_in(torch.tensor(1.0)) == 1


def test_a_batch_is_inputs_and_a_target() -> None:
    """The last item is the target, and the model takes the others."""
    assert inputs_and_target([1, 2, 3]) == ((1, 2), 3)
    for batch in (torch.zeros(3), {"a": 1}, (1,)):
        with pytest.raises(UsageError, match=r"override ModelTrainer\.forward"):
            inputs_and_target(batch)
