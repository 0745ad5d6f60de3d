"""Batches of various structures."""

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


def test_all_tensors_of_a_batch_are_moved() -> None:
    """Tensors in tuples, lists, named tuples and maps are moved; strings and numbers are unchanged."""
    tensor = torch.zeros(3, 2)
    moved = to_device({"a": [tensor, "text"], "b": (tensor, 5), "c": Pair(tensor, None)}, META)
    assert moved["a"][0].device == moved["b"][0].device == moved["c"].image.device == META
    assert (moved["a"][1], moved["b"][1], moved["c"].label) == ("text", 5, None)
    assert isinstance(moved["c"], Pair)


def test_the_first_tensor_determines_the_number_of_samples() -> None:
    """It is the length of the first tensor with a dimension, or 1 if there is none."""
    assert samples_in((torch.zeros(7, 2), torch.zeros(3))) == 7
    assert samples_in({"scale": torch.tensor(1.0), "rows": [torch.zeros(4)]}) == 4
    assert samples_in("text") == samples_in(torch.tensor(1.0)) == 1


def test_a_batch_is_inputs_and_a_target() -> None:
    """The last item is the target, and the others are the model's arguments."""
    assert inputs_and_target([1, 2, 3]) == ((1, 2), 3)
    for batch in (torch.zeros(3), {"a": 1}, (1,)):
        with pytest.raises(UsageError, match=r"override ModelTrainer\.forward"):
            inputs_and_target(batch)
