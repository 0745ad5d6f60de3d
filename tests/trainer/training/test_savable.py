"""Values that are saved so that they can be loaded without executing code."""

from __future__ import annotations

import datetime
import enum
import io
from argparse import Namespace
from collections import Counter, OrderedDict, defaultdict, deque, namedtuple
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from trainwire.training.savable import as_before, python_numbers, savable
from trainwire_protocol.errors import UsageError

Pair = namedtuple("Pair", "left right")


class Color(enum.Enum):
    RED = "red"


class Level(enum.IntEnum):
    HIGH = 3


@dataclass(frozen=True)
class Point:
    x: float
    y: Any = None


class Text(str):
    """A string of a derived class."""


def reload(value: Any) -> Any:
    """Save a value, and load it as users do."""
    buffer = io.BytesIO()
    torch.save(savable(value, "it"), buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=True)


DAY = datetime.datetime(2030, 1, 2, 3, 4, tzinfo=datetime.UTC)
CONVERTED: list[tuple[Any, Any]] = [
    (np.float64(0.5), 0.5), (np.float32(0.5), 0.5), (np.int64(3), 3), (np.bool_(True), True), (np.str_("a"), "a"),
    (np.longdouble(2), 2.0), (np.array(["a", "b"]), ["a", "b"]), (np.array(1.5), 1.5), (Color.RED, "red"),
    (Level.HIGH, 3), (Path("a/b"), "a/b"), (DAY, "2030-01-02T03:04:00+00:00"), (DAY.date(), "2030-01-02"),
    (datetime.timedelta(minutes=1), 60.0), (Pair(1, np.int8(2)), (1, 2)),
    (Point(1, [Color.RED]), {"x": 1, "y": ["red"]}), (Namespace(a=Path("x")), {"a": "x"}),
    (defaultdict(int, a=1), {"a": 1}), (deque([1, 2], 5), [1, 2]),
    (frozenset({1, 2}), {1, 2}), (Text("t"), "t"), ({np.int64(1): {Color.RED: 1}}, {1: {"red": 1}}),
]  # fmt: skip
KEPT = [
    None, 2**200, -(2**70), 1.5, 1j, "s", b"b", bytearray(b"b"), {1, 2}, (1, [2]), Counter("aab"),
    OrderedDict(a=1), torch.float16, torch.device("cpu"), torch.Size([1, 2]),
    np.random.default_rng(1).bit_generator.state,
]  # fmt: skip


@pytest.mark.parametrize(("value", "expected"), CONVERTED)
def test_other_values_become_loadable_ones(value: Any, expected: Any) -> None:
    """They are converted to the built-in value next to them, and back where a value of the same structure is known."""
    loaded = reload({"a": [value]})["a"][0]
    assert (loaded, type(loaded)) == (expected, type(expected))
    (restored,) = as_before([loaded], [value])
    assert type(restored) is type(value)
    assert np.array_equal(restored, value) if isinstance(value, np.ndarray) else restored == value


@pytest.mark.parametrize("value", KEPT)
def test_loadable_values_are_kept(value: Any) -> None:
    """They have the same class and value after loading."""
    loaded = reload(value)
    assert (loaded, type(loaded)) == (value, type(value))
    assert as_before(loaded, value) == value


@pytest.mark.parametrize("kind", ["float32", "int64", "bool", "uint16", "complex64", ">f4"])
def test_arrays_become_tensors(kind: str) -> None:
    """They are arrays again where one was before."""
    array = np.array([[0, 1], [2, 3]]).astype(kind)
    loaded = reload({"array": array})
    assert torch.equal(loaded["array"], torch.tensor(array.astype(array.dtype.newbyteorder("="))))
    restored = as_before(loaded, {"array": array[:1]})["array"]
    assert restored.dtype == array.dtype
    assert np.array_equal(restored, array)


def test_random_states_of_numpy_can_be_set_again() -> None:
    """The global state and that of a generator continue with the same numbers after loading."""
    random = np.random.RandomState(5)
    state = reload(random.get_state())
    expected = random.random(3)
    random.set_state(state)
    assert np.array_equal(random.random(3), expected)


@pytest.mark.parametrize("value", [object(), Decimal(1), range(3), len, int, torch.Generator(), lambda: 0])
def test_what_cannot_be_saved_is_named(value: Any) -> None:
    """The error names its place and its class."""
    with pytest.raises(UsageError, match=r"it\['a'\]\[1\] is a [\w.]+, which cannot be loaded"):
        savable({"a": [0, value]}, "it")


def test_a_value_of_another_structure_is_kept() -> None:
    """A value that has changed its class since is not forced into the former one."""
    assert as_before(None, np.float64(1)) is None
    assert as_before([1, 2, 3], [np.int8(1)]) == [1, 2, 3]
    assert as_before({"x": 1}, Point(1.0)) == Point(1)
    assert as_before({"z": 1}, Point(1.0)) == {"z": 1}
    assert as_before("blue", Color.RED) == "blue"


def test_a_state_dict_keeps_its_versions_and_its_tensors() -> None:
    """What `load_state_dict` needs beside the values is kept, and tensors are not copied unless requested."""
    model = nn.BatchNorm1d(2)
    state = model.state_dict()
    saved = savable(state, "it")
    assert saved._metadata == state._metadata  # type: ignore[attr-defined]  # set by torch
    assert saved["weight"].data_ptr() == model.weight.data_ptr()
    assert savable(state, "it", copy=True)["weight"].data_ptr() != model.weight.data_ptr()


def test_numbers_of_numpy_in_options_become_numbers_of_python() -> None:
    """Also within maps and tuples; arrays and other values are kept."""
    array = np.ones(2)
    given = {"a": np.float32(0.5), "b": (np.int64(1), [np.bool_(False)]), "c": array}
    plain = python_numbers(given)
    assert plain == {"a": 0.5, "b": (1, [False]), "c": array}
    assert [type(plain["a"]), type(plain["b"][0]), type(plain["b"][1][0])] == [float, int, bool]
