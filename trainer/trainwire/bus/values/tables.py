"""Tables: from `{columns, rows}`, data frames, arrays, and lists of maps, of rows or of columns."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence, Sized
from typing import Any

from trainwire.bus.values.coercion import read_items
from trainwire.bus.values.plain import coerce_plain, fields_of
from trainwire.bus.values.tensors import describe, is_array, is_tensor, readable
from trainwire_protocol.errors import UnsupportedValueError


def coerce_table(value: Any) -> Any:
    """Return the value of a `table` event: `{columns, rows}`, where columns without a name are numbered from 0.

    Raises:
        UnsupportedValueError: it is not a table.
    """
    columns, rows = _read(value)
    names = list(map(_name, columns))
    keys: dict[str, Any] = {}
    for name, column in zip(names, columns, strict=True):
        if type(keys.setdefault(name, column)) is not type(column):
            raise UnsupportedValueError(
                f"the columns {keys[name]!r:.60} and {column!r:.60} have the same name; rename one of them"
            )
    return coerce_plain({"columns": names, "rows": rows})


def _read(value: Any) -> tuple[Sequence[Any], Any]:
    """Return the names of the columns, and the rows."""
    if isinstance(value, Mapping):
        return _read_map(value)
    if is_tensor(value):
        return _read_array(readable(value))
    if callable(getattr(value, "to_frame", None)) and getattr(value, "ndim", 1) == 1:  # a series
        value = value.to_frame()
    if callable(getattr(value, "itertuples", None)):  # pandas
        frame = value if type(value.index).__name__ == "RangeIndex" else value.reset_index()
        return list(frame.columns), list(frame.itertuples(index=False, name=None))
    if callable(getattr(value, "rows", None)) and hasattr(value, "columns"):  # Polars
        return list(value.columns), value.rows()
    if callable(getattr(value, "to_pylist", None)) and hasattr(value, "column_names"):  # Arrow
        return list(value.column_names), [list(row.values()) for row in value.to_pylist()]
    names = getattr(getattr(value, "dtype", None), "names", None)
    if names and getattr(value, "ndim", None) == 1:  # a structured array
        return list(names), list(map(list, value))
    if is_array(value) and isinstance(getattr(value, "shape", None), tuple):
        return _read_array(value)
    if isinstance(value, (str, bytes)) or not isinstance(value, Iterable):
        raise UnsupportedValueError(
            f"the value is {describe(value)}; pass a data frame, a list of maps or rows, or {{'columns': …, 'rows': …}}"
        )
    return _read_rows(read_items(value))


def _read_map(value: Mapping[Any, Any]) -> tuple[Sequence[Any], Any]:
    """Return a complete table, the columns of a map, or a row for each map in a map."""
    if "columns" in value and "rows" in value:
        return _items(value["columns"], "columns"), list(map(_row, _items(value["rows"], "rows")))
    if not value:
        raise UnsupportedValueError("the map is empty; pass at least one column")
    if not any(_is_column(column) for column in value.values()):
        if not any(isinstance(row, Mapping) for row in value.values()):
            return list(value), [list(value.values())]
        rows = {name: row if isinstance(row, Mapping) else {"value": row} for name, row in value.items()}
        return _read_rows([{"": name, **row} for name, row in rows.items()])
    columns = {name: list(column) if _is_column(column) else [column] for name, column in value.items()}
    lengths = {str(name): len(column) for name, column in columns.items()}
    if len(set(lengths.values())) > 1:
        raise UnsupportedValueError(f"the columns have different lengths, {lengths!r:.200}; pass columns of one length")
    return list(value), [list(row) for row in zip(*columns.values(), strict=True)]


def _read_array(array: Any) -> tuple[Sequence[Any], Any]:
    shape = tuple(array.shape)
    if len(shape) not in (1, 2):
        raise UnsupportedValueError(f"the value is {describe(array)}; pass an array of one or two dimensions")
    return ["value"] if len(shape) == 1 else range(shape[1]), array.reshape(shape[0], -1)


def _read_rows(rows: list[Any]) -> tuple[Sequence[Any], Any]:
    """Return rows, each a map or an object with fields, a sequence, or a single cell."""
    fields = [
        None if isinstance(row, (list, str)) or is_tensor(row) or is_array(row) else fields_of(row) for row in rows
    ]
    maps = [row for row in fields if row is not None]
    if maps and len(maps) == len(rows):
        columns = list(dict.fromkeys(column for row in maps for column in row))
        return columns, [[row.get(column) for column in columns] for row in maps]
    if not any(map(_is_column, rows)):
        return ["value"], [[cell] for cell in rows]
    cells = list(map(_row, rows))
    width = max(map(len, cells))
    return range(width), [[*row, *[None] * (width - len(row))] for row in cells]


def _is_column(value: Any) -> bool:
    """Return whether a value consists of several cells."""
    if is_tensor(value) or is_array(value):
        return len(value.shape) > 0
    return isinstance(value, Iterable) and isinstance(value, Sized) and not isinstance(value, (str, bytes, Mapping))


def _row(row: Any) -> list[Any]:
    return list(row) if _is_column(row) else [row]


def _items(value: Any, what: str) -> list[Any]:
    if not _is_column(value):
        raise UnsupportedValueError(f"{what} is {describe(value)}; pass a list")
    return list(value)


def _name(column: Any) -> str:
    """Return the name of a column; that of several levels has its parts joined by a slash."""
    return "/".join(map(str, column)) if isinstance(column, tuple) else str(column)
