"""Histograms of tensors, arrays and other collections, compared with what PyTorch computes."""

from __future__ import annotations

import itertools
import math
import sys
import warnings
from collections import Counter, deque
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.recorded_values import recorded

from trainwire.bus.values.histograms import BINS, bucket, coerce_histogram

LARGEST = sys.float_info.max


def histogram(folder: Path, value: Any) -> dict[str, Any]:
    """Record a histogram, and return it as it is in the journal."""
    return recorded(folder, lambda bus: bus.histogram("x", value, step=1))["x"]


@pytest.mark.parametrize(
    "numbers",
    [
        [], [1.0], [2.0, 2.0], [-1.0, 0.0, 5.5], [math.nan, 1.0, math.inf], [math.nan] * 4, [-math.inf],
        [-LARGEST, 0.0, LARGEST], [LARGEST, LARGEST], [5e-324, 1e-323], [0.1] * 3, [-1e300, 1e299],
    ],
)  # fmt: skip
def test_a_tensor_an_array_and_a_list_have_the_same_histogram(numbers: list[float]) -> None:
    """Bucketing a tensor with its own operations, or an array, gives the same as plain Python, without warnings."""
    expected = bucket(numbers)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for value in (torch.tensor(numbers, dtype=torch.float64), np.array(numbers, dtype=np.float64)):
            found = coerce_histogram(value).resolve()
            assert found.keys() == expected.keys()
            for field, known in expected.items():
                assert found[field] == pytest.approx(known), field
    assert len(expected["counts"]) == BINS == len(expected["edges"]) - 1
    assert all(low <= high for low, high in itertools.pairwise(expected["edges"]))
    assert sum(expected["counts"]) + expected.get("nan", 0) + expected.get("infinite", 0) == len(numbers)


def test_a_histogram_counts_every_value_in_its_bin() -> None:
    """The counts equal NumPy's for values that are not on an edge."""
    numbers = np.random.default_rng(0).normal(size=1000)
    found = bucket(numbers.tolist())
    counts, edges = np.histogram(numbers, bins=BINS)
    assert found["counts"] == counts.tolist()
    assert found["edges"] == pytest.approx(edges.tolist())


@pytest.mark.parametrize(
    "kind", [torch.bool, torch.uint8, torch.int32, torch.int64, torch.float16, torch.bfloat16, torch.float32]
)
def test_tensors_of_any_type(tmp_path: Path, kind: torch.dtype) -> None:
    """The counts and sums are those that PyTorch computes in float64."""
    tensor = (torch.arange(600).reshape(20, 30) % 7).to(kind).T
    values = tensor.double().reshape(-1)
    found = histogram(tmp_path, tensor)
    assert found["counts"] == tuple(torch.histc(values, BINS).long().tolist())
    assert (found["sum"], found["sum_squares"]) == (values.sum().item(), values.pow(2).sum().item())


@pytest.mark.parametrize("numbers", [[-(2**63), 0, 2**63 - 1], [torch.finfo(torch.float32).min, 3e38]])
def test_the_whole_range_of_a_type(tmp_path: Path, numbers: list[float]) -> None:
    """The largest and smallest numbers are in the outer bins."""
    for number, value in enumerate((torch.tensor(numbers), np.array(numbers), numbers)):
        found = histogram(tmp_path / str(number), value)
        assert (found["counts"][0], found["counts"][-1], found["min"]) == (1, 1, float(numbers[0]))


@pytest.mark.parametrize(
    "value",
    [
        (1, 2, 2, 4), deque([1, 2, 2, 4]), {"a": 1, "b": 2, "c": 2, "d": 4}.values(), iter([1, 2, 2, 4]),
        (number for number in (1, 2, 2, 4)), [[1, 2], [2, 4]], [torch.tensor([1, 2]), torch.tensor([[2.0], [4.0]])],
        [np.array([1, 2]), 2, torch.tensor(4)], np.array([[1, 2], [2, 4]], dtype=np.int8),
        np.ma.masked_equal([1, 2, 9, 2, 4], 9), torch.nn.Parameter(torch.tensor([1.0, 2, 2, 4])),
    ],
)  # fmt: skip
def test_every_collection_of_numbers(tmp_path: Path, value: Any) -> None:
    """The histogram is that of the numbers, however they are held."""
    assert histogram(tmp_path, value) == bucket([1.0, 2.0, 2.0, 4.0]) | {
        "counts": tuple(bucket([1.0, 2.0, 2.0, 4.0])["counts"]), "edges": tuple(bucket([1.0, 2.0, 2.0, 4.0])["edges"]),
    }  # fmt: skip


def test_what_is_not_finite_is_counted(tmp_path: Path) -> None:
    """NaN, missing values and infinities are counted beside the finite values."""
    found = histogram(tmp_path, [1.0, None, math.nan, math.inf, -math.inf, 3.0, -math.inf])
    assert (sum(found["counts"]), found["nan"], found["infinite"]) == (2, 2, 3)
    assert (found["min"], found["max"]) == (1.0, 3.0)


@pytest.mark.parametrize("library", [np, torch])
def test_counts_and_edges_are_recorded_as_given(tmp_path: Path, library: Any) -> None:
    """What `numpy.histogram` and `torch.histogram` return is a histogram, not a list of numbers."""
    numbers = np.random.default_rng(2).normal(size=500)
    pair = np.histogram(numbers, 10) if library is np else torch.histogram(torch.from_numpy(numbers), 10)
    found = histogram(tmp_path, tuple(pair) if library is np else pair)
    counts, edges = np.histogram(numbers, 10)
    assert found["counts"] == tuple(counts.tolist())
    assert found["edges"] == pytest.approx(edges.tolist())
    assert found["sum"] == pytest.approx(numbers.sum(), abs=500 * (edges[1] - edges[0]))


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (Counter("aab"), "list(value.values())"),
        ("abc", "the text 'abc'"),
        ([1, "a"], "the text 'a'"),
        (None, "None"),
        (itertools.count(), "1000000 items"),
        (torch.eye(3).to_sparse(), "to_dense()"),
        (torch.ones(2, device="meta"), "device meta"),
        (torch.ones(2, dtype=torch.complex64), "complex"),
        (np.array(["2020-01-01"], "M8[s]"), "not an array of numbers"),
    ],
)
def test_what_is_refused_is_said_with_the_remedy(tmp_path: Path, caplog: Any, value: Any, said: str) -> None:
    """What contains anything but numbers is refused by one line that names the event."""
    assert not recorded(tmp_path, lambda bus: bus.histogram("x", value, step=1))
    assert len(caplog.records) == 1
    assert "event 'x' of type histogram" in caplog.text
    assert said in caplog.text
