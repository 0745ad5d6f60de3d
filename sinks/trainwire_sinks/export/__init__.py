"""A run's events as one file: a module for each format."""

from __future__ import annotations

from collections.abc import Sequence
from typing import BinaryIO, Literal, Protocol, TypeAlias

from trainwire_protocol.errors import MissingExtraError
from trainwire_protocol.events import Event

Format: TypeAlias = Literal["csv", "jsonl", "parquet"]


class Writer(Protocol):
    """Writes events as they come, and keeps no more of them than it has to."""

    def write(self, rank: int, events: Sequence[Event]) -> None:
        """Append events of a rank.

        Raises:
            OSError: they cannot be written.
        """

    def close(self) -> None:
        """Write what was held back; the file itself stays open."""


def make_writer(form: Format, file: BinaryIO, *, is_terminal: bool = False) -> Writer:
    """A writer of this format to `file`; what goes to a terminal is escaped, so that no name can steer it.

    Raises:
        MissingExtraError: the format needs packages that are not installed.
    """
    if form == "csv":
        from trainwire_sinks.export.csv_file import CsvWriter

        return CsvWriter(file, is_terminal=is_terminal)
    if form == "jsonl":
        from trainwire_sinks.export.jsonl_file import JsonlWriter

        return JsonlWriter(file)
    try:
        from trainwire_sinks.export.parquet_file import ParquetWriter
    except ImportError as error:
        raise MissingExtraError("the format parquet", "parquet", "pyarrow") from error
    return ParquetWriter(file)
