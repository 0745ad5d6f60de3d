"""Tables in every form that users have them."""

from __future__ import annotations

import collections
import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.recorded_values import recorded

import trainwire

Row = collections.namedtuple("Row", ["a", "b"])


@dataclasses.dataclass
class Score:
    a: int
    b: int


def table(folder: Path, value: Any) -> tuple[Any, Any]:
    """Record a table, and return its columns and rows."""
    found = recorded(folder, lambda bus: bus.table("x", value, step=1))["x"]
    return found["columns"], found["rows"]


@pytest.mark.parametrize(
    "value",
    [
        {"columns": ["a", "b"], "rows": [[1, 2], [3, 4]]}, {"columns": ("a", "b"), "rows": np.array([[1, 2], [3, 4]])},
        {"a": [1, 3], "b": [2, 4]}, {"a": np.array([1, 3]), "b": torch.tensor([2, 4])},
        [{"a": 1, "b": 2}, {"a": 3, "b": 4}], [Row(1, 2), Row(3, 4)], [Score(1, 2), Score(3, 4)],
        np.array([(1, 2), (3, 4)], dtype=[("a", int), ("b", int)]), (row for row in (Row(1, 2), Row(3, 4))),
    ],
)  # fmt: skip
def test_named_columns(tmp_path: Path, value: Any) -> None:
    """Columns and rows are the same, however they are held."""
    assert table(tmp_path, value) == (("a", "b"), ((1, 2), (3, 4)))


@pytest.mark.parametrize(
    "value",
    [[[1, 2], [3, 4]], ((1, 2), (3, 4)), np.array([[1, 2], [3, 4]]), torch.tensor([[1, 2], [3, 4]]).bfloat16(),
     [np.array([1, 2]), torch.tensor([3, 4])], iter([[1, 2], [3, 4]])],
)  # fmt: skip
def test_rows_alone_have_numbered_columns(tmp_path: Path, value: Any) -> None:
    """Rows without names of columns are a table too."""
    assert table(tmp_path, value) == (("0", "1"), ((1, 2), (3, 4)))


@pytest.mark.parametrize("value", [[1, 2], np.array([1, 2]), torch.tensor([1, 2]), range(1, 3)])
def test_a_list_of_cells_is_a_column(tmp_path: Path, value: Any) -> None:
    """Values of one dimension are the rows of one column."""
    assert table(tmp_path, value) == (("value",), ((1,), (2,)))


def test_a_report_has_a_row_for_each_name(tmp_path: Path) -> None:
    """Maps in a map, as scikit-learn reports the scores of classes, are rows; missing cells are empty."""
    report = {"cat": {"f1": 0.5, "support": 3}, "dog": {"f1": 0.25}, "accuracy": 0.9}
    columns, rows = table(tmp_path, report)
    assert columns == ("", "f1", "support", "value")
    assert rows == (("cat", 0.5, 3, None), ("dog", 0.25, None, None), ("accuracy", None, None, 0.9))


class Frame:
    """Has what a DataFrame of pandas has; its index is not a range."""

    ndim = 2
    index = ("cat", "dog")

    def __init__(self, columns: list[Any], rows: list[tuple[Any, ...]]) -> None:
        self.columns, self._rows = columns, rows

    def reset_index(self) -> Frame:
        return Frame(["index", *self.columns], [(name, *row) for name, row in zip(self.index, self._rows, strict=True)])

    def itertuples(self, index: bool, name: None) -> list[tuple[Any, ...]]:
        return self._rows


def test_a_data_frame_keeps_its_index(tmp_path: Path) -> None:
    """The index is a column, and the levels of a column's name are joined."""
    frame = Frame([("dev", "f1"), "n"], [(np.float32(0.5), np.int64(2)), (0.25, None)])
    columns, rows = table(tmp_path, frame)
    assert columns == ("index", "dev/f1", "n")
    assert rows == (("cat", 0.5, 2), ("dog", 0.25, None))


def test_real_data_frames(tmp_path: Path) -> None:
    """Frames of the libraries that are installed are tables."""
    pyarrow = pytest.importorskip("pyarrow")
    assert table(tmp_path, pyarrow.table({"a": [1, None], "b": ["x", "y"]})) == (("a", "b"), ((1, "x"), (None, "y")))


def test_times_in_cells_are_texts(tmp_path: Path) -> None:
    """NumPy's times do not become integers, whatever their unit."""
    value = [[np.datetime64("2020-01-02", "ns")], [np.datetime64("2020-01-03", "D")]]
    assert table(tmp_path, value)[1] == (("2020-01-02T00:00:00.000000000",), ("2020-01-03",))
    array = np.array([["2020-01-02"]], dtype="M8[ns]")
    assert table(tmp_path / "array", array)[1] == (("2020-01-02T00:00:00.000000000",),)


def test_a_cell_that_cannot_be_recorded_does_not_lose_the_others(tmp_path: Path, caplog: Any) -> None:
    """A text that is too long is cut, one that cannot be encoded is escaped, and each is said with its place."""
    value = {"columns": ["a", "b"], "rows": [["x" * (1 << 21), 1], ["\udcff", 2]]}
    _, rows = table(tmp_path, value)
    assert [row[1] for row in rows] == [1, 2]
    assert (len(rows[0][0]), rows[1][0]) == (1 << 20, "\\udcff")
    assert ["rows/0/0" in caplog.messages[0], "rows/1/0" in caplog.messages[1]] == [True, True]


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (None, "None"), ("text", "the text 'text'"), (5, "5"), ({}, "empty"), (np.zeros((2, 2, 2)), "shape (2, 2, 2)"),
        ({"a": [1], "b": [1, 2]}, "different lengths"), ({"columns": ["a"], "rows": [[1, 2]]}, "2 cells"),
        ({"columns": "ab", "rows": []}, "columns is the text"), (torch.eye(2).to_sparse(), "to_dense()"),
    ],
)  # fmt: skip
def test_what_is_refused_is_said_with_the_remedy(tmp_path: Path, caplog: Any, value: Any, said: str) -> None:
    """A value that is no table is refused by one line that names the event."""
    assert not recorded(tmp_path, lambda bus: bus.table("x", value, step=1))
    assert len(caplog.records) == 1
    assert "'x'" in caplog.text
    assert said in caplog.text


def test_columns_whose_names_would_be_equal_are_refused(tmp_path: Path, caplog: Any) -> None:
    """The keys 1 and "1" are different columns, and neither loses its name to the other."""
    with trainwire.open_bus(tmp_path) as bus:
        bus.table("scores", {1: [0.5], "1": [0.25]}, step=1)
    assert "the columns 1 and '1' have the same name; rename one of them" in caplog.text
