"""Scalars and steps in every form that users have them."""

from __future__ import annotations

import datetime
import math
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.recorded_values import recorded
from support.run_reader import read_events

import trainwire


@pytest.mark.parametrize(
    "value",
    [
        2, 2.0, Decimal(2), Fraction(4, 2), np.float16(2), np.array(2), np.array([[2.0]]), np.uint64(2), [2], (2.0,),
        torch.tensor(2, dtype=torch.uint8), torch.tensor([2.0]).bfloat16(), torch.tensor(2.0, requires_grad=True),
        [torch.tensor(2.0)],
    ],
)  # fmt: skip
def test_one_number_in_any_form(tmp_path: Path, caplog: Any, value: Any) -> None:
    """A number of any library, or a collection of one number, is a scalar."""
    assert recorded(tmp_path, lambda bus: bus.log({"x": value}, step=1)) == {"x": 2}
    assert not caplog.records


def test_nested_metrics_are_named_by_their_path(tmp_path: Path, caplog: Any) -> None:
    """The metrics of nested maps have the names of the maps before theirs; one bad item does not lose the others."""
    metrics = {"dev": {"f1": 0.5, "classes": {0: torch.tensor(0.25), 1: None}}, "loss": 1.0}
    values = recorded(tmp_path, lambda bus: bus.log(metrics, step=1))
    assert values == {"dev/f1": 0.5, "dev/classes/0": 0.25, "loss": 1.0}
    assert [record.getMessage().partition(":")[2][:30] for record in caplog.records] == [
        " event 'dev/classes/1' of type"
    ]


@pytest.mark.parametrize("order", [("dev/f1", "dev", "loss"), ("dev", "loss", "dev/f1")])
def test_two_values_under_one_name_are_not_merged(tmp_path: Path, caplog: Any, order: tuple[str, ...]) -> None:
    """If a nested name equals another name of the call, both values are refused by a line, whichever is first."""
    metrics = {"dev/f1": 1.0, "dev": {"f1": 2.0}, "loss": 3.0}
    values = recorded(tmp_path, lambda bus: bus.log({name: metrics[name] for name in order}, step=1))
    assert values == {"loss": 3.0}
    assert "two values of one call" in caplog.text


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (torch.ones(4, 2), "shape (4, 2)"), (np.ones(3), "bus.scalars"), ([1.0, 2.0], "bus.histogram"),
        (torch.zeros(0), "shape (0,)"), ("0.5", "bus.text"), (None, "float('nan')"), (1 + 2j, "value.real"),
        (torch.tensor(1j), "value.abs()"), (np.complex64(1j), "value.real"), (torch.ones(1).item, "call it"),
        (datetime.timedelta(seconds=1), "total_seconds"), (np.datetime64("2020-01-01", "ns"), "datetime64"),
        (np.timedelta64(5, "ns"), "numpy.timedelta64"), (np.ma.masked, "Masked"), (10**400, "bits"), ({}, "nothing"),
        (torch.zeros((), device="meta"), "device meta"), (torch.nn.Linear(1, 1), "a Linear"),
    ],
)  # fmt: skip
def test_what_is_refused_is_said_with_the_remedy(tmp_path: Path, caplog: Any, value: Any, said: str) -> None:
    """A value that is not a number is refused by one line that names it, and the others of the call are recorded."""
    values = recorded(tmp_path, lambda bus: bus.log({"before": 1.0, "x": value, "after": 2}, step=1))
    assert values == {"before": 1.0, "after": 2}
    assert len(caplog.records) == 1
    assert "event 'x' of type scalar" in caplog.text
    assert said in caplog.text


@pytest.mark.parametrize(
    "step", [7, 7.0, np.int32(7), np.float32(7), np.array([7]), torch.tensor(7), torch.tensor(7.0), Decimal(7)]
)
def test_a_whole_number_in_any_form_is_a_step(tmp_path: Path, caplog: Any, step: Any) -> None:
    """Schedulers and counters give steps as floats, arrays and tensors."""
    with trainwire.open_bus(tmp_path) as bus:
        bus.log({"a": 1.0}, step=step)
        bus.text("b", "text", step=step)
    assert [event.step for event in read_events(tmp_path) if event.name in ("a", "b")] == [7, 7]
    assert not caplog.records


@pytest.mark.parametrize("step", [7.5, math.nan, math.inf, 2**63, 1e300, "7", True, torch.ones(2), [], object()])
def test_any_other_step_is_refused_by_name(tmp_path: Path, caplog: Any, step: Any) -> None:
    """A step that is not a whole number of 64 bits is refused by a line that names the argument."""
    assert not recorded(tmp_path, lambda bus: bus.log({"a": 1.0}, step=step))
    assert "step is " in caplog.text


@pytest.mark.parametrize(
    "value", [[1, 2.5], torch.tensor([1, 2.5]), np.array([1, 2.5]), iter([1, 2.5]), {"a": 1, "b": 2.5}.values()]
)
def test_several_numbers_in_any_form(tmp_path: Path, value: Any) -> None:
    """`scalars` takes every sequence of numbers."""
    assert recorded(tmp_path, lambda bus: bus.scalars("x", value, step=1)) == {"x": (1, 2.5)}


def test_a_bad_item_of_scalars_does_not_lose_the_others(tmp_path: Path, caplog: Any) -> None:
    """It is left out of a map, and NaN in a list, where the others keep their positions; a line says so."""
    values = recorded(tmp_path / "map", lambda bus: bus.scalars("x", {"a": 1, "b": None}, step=1))
    assert values == {"x": {"a": 1}}
    first, second, third = recorded(tmp_path / "list", lambda bus: bus.scalars("x", [1, "b", 3], step=1))["x"]
    assert (first, math.isnan(second), third) == (1, True, 3)
    assert ["'b'" in caplog.messages[0], "'1'" in caplog.messages[1]] == [True, True]


def test_labels_that_are_the_same_text_are_kept_apart(tmp_path: Path) -> None:
    """The labels 1 and "1" are two labels."""
    values = recorded(tmp_path, lambda bus: bus.scalars("x", {"1": 0.1, 1: 0.2}, step=1))
    assert values == {"x": {"1": 0.1, "1 (int)": 0.2}}
