"""Exports events as Parquet."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, BinaryIO, Final

import pyarrow as pa
import pyarrow.parquet as pq

from trainwire_protocol.events import MEDIA_TYPES, Event
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
"""`value` holds the number of a scalar, `data` the bytes of an image or sound, `text` a text or any other value as
JSON. An integer that a double cannot represent exactly is in `text` as well, with all its digits.
"""

RUN_FIELD: Final = pa.field("run", pa.string(), nullable=False)
"""The last column, if several runs are exported."""

ROW_GROUP_ROWS: Final = 1 << 17
"""Maximum number of rows in a row group."""

ROW_GROUP_BYTES: Final = 64 << 20
"""Bytes of text and data after which a row group is written before it is full."""


class ParquetWriter:
    """Writes a row for each event, compressed with zstd."""

    def __init__(self, file: BinaryIO, *, with_run: bool = False) -> None:
        self._with_run = with_run
        self._schema = SCHEMA.append(RUN_FIELD) if with_run else SCHEMA
        self._writer = pq.ParquetWriter(file, self._schema, compression="zstd")
        self._rows: list[tuple[Any, ...]] = []
        self._bytes = 0

    def write(self, run: str, rank: int, events: Sequence[Event]) -> None:
        """Append the events of a run's rank."""
        source = (rank, run) if self._with_run else (rank,)
        for name, value, kind, walltime, step in events:
            if kind == "scalar" and type(value) is float:
                self._rows.append((name, value, None, None, kind, walltime, step, *source))
            else:
                number, text, data = _value_columns(kind, value)
                self._rows.append((name, number, text, data, kind, walltime, step, *source))
                self._bytes += len(text or "") + len(data or b"")
            if len(self._rows) >= ROW_GROUP_ROWS or self._bytes >= ROW_GROUP_BYTES:
                self._write_group()

    def close(self) -> None:
        """Write the last row group and the footer."""
        self._write_group()
        self._writer.close()

    def _write_group(self) -> None:
        rows, self._rows, self._bytes = self._rows, [], 0
        if rows:
            columns = [
                pa.array(column, field.type)
                for column, field in zip(zip(*rows, strict=True), self._schema, strict=True)
            ]
            self._writer.write_batch(pa.record_batch(columns, schema=self._schema), row_group_size=ROW_GROUP_ROWS)


def _value_columns(kind: str, value: Any) -> tuple[float | None, str | None, bytes | None]:
    """Return the cells of an event's value in the columns `value`, `text` and `data`."""
    if kind == "scalar":
        number = float(value)
        return number, (str(value) if type(value) is int and int(number) != value else None), None
    if kind == "text":
        return None, value, None
    if kind in MEDIA_TYPES:
        return None, to_json({key: item for key, item in value.items() if key != "data"}), value["data"]
    return None, to_json(value), None
