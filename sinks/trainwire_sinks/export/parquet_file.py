"""Export as Parquet, in row groups."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, BinaryIO, Final

import pyarrow as pa
import pyarrow.parquet as pq

from trainwire_protocol.events import Event
from trainwire_sinks.text.json_lines import to_json

SCHEMA: Final = pa.schema(
    [
        pa.field("name", pa.string(), nullable=False),
        pa.field("value", pa.float64()),
        pa.field("text", pa.string()),
        pa.field("data", pa.binary()),
        pa.field("type", pa.string(), nullable=False),
        pa.field("walltime", pa.float64(), nullable=False),
        pa.field("step", pa.int64(), nullable=False),
        pa.field("rank", pa.int32(), nullable=False),
    ]
)
"""`value` holds a scalar's number; `data` the bytes of an image or a sound; `text` a text, or any other value as JSON.

A whole number that a double cannot hold exactly stands in `text` as well, in all its digits.
"""

ROW_GROUP: Final = 1 << 17
"""Rows in a row group."""

ROW_GROUP_BYTES: Final = 64 << 20
"""Bytes of texts and data after which a row group is ended before it is full."""

Value = tuple[float | None, str | None, bytes | None]


class ParquetWriter:
    """A row for each event, compressed by zstd."""

    def __init__(self, file: BinaryIO) -> None:
        self._writer = pq.ParquetWriter(file, SCHEMA, compression="zstd")
        self._rows: list[tuple[Any, ...]] = []
        self._bytes = 0

    def write(self, rank: int, events: Sequence[Event]) -> None:
        """Append events of a rank."""
        for name, value, kind, walltime, step in events:
            if kind == "scalar" and type(value) is float:
                self._rows.append((name, value, None, None, kind, walltime, step, rank))
            else:
                number, text, data = _split(kind, value)
                self._rows.append((name, number, text, data, kind, walltime, step, rank))
                self._bytes += len(text or "") + len(data or b"")
            if len(self._rows) >= ROW_GROUP or self._bytes >= ROW_GROUP_BYTES:
                self._write_group()

    def close(self) -> None:
        """Write the last row group, and the file's end."""
        self._write_group()
        self._writer.close()

    def _write_group(self) -> None:
        rows, self._rows, self._bytes = self._rows, [], 0
        if rows:
            columns = [
                pa.array(column, field.type) for column, field in zip(zip(*rows, strict=True), SCHEMA, strict=True)
            ]
            self._writer.write_batch(pa.record_batch(columns, schema=SCHEMA), row_group_size=ROW_GROUP)


def _split(kind: str, value: Any) -> Value:
    """What of an event's value goes into which column."""
    if kind == "scalar":
        number = float(value)
        return number, (str(value) if type(value) is int and int(number) != value else None), None
    if kind == "text":
        return None, value, None
    if kind in ("image", "audio"):
        return None, to_json({key: item for key, item in value.items() if key != "data"}), value["data"]
    return None, to_json(value), None
