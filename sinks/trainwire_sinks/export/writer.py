"""The interface of the writers of all export formats, and the choice between them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import BinaryIO, Literal, Protocol, TypeAlias

from trainwire_protocol.errors import MissingExtraError
from trainwire_protocol.events import Event

Format: TypeAlias = Literal["csv", "jsonl", "parquet"]


class ExportWriter(Protocol):
    """Writes events as they arrive, in bounded memory."""

    def write(self, run: str, rank: int, events: Sequence[Event]) -> None:
        """Append the events of a run's rank.

        Raises:
            OSError: the file cannot be written.
        """

    def close(self) -> None:
        """Write buffered events and what the format has at its end; the file stays open."""


def make_writer(form: Format, file: BinaryIO, *, with_run: bool = False, is_terminal: bool = False) -> ExportWriter:
    """Return a writer of the given format.

    Args:
        form: the format.
        file: the file to write to.
        with_run: write the run of each event, in a column or field `run`.
        is_terminal: escape control characters, so that no name can control the terminal.

    Raises:
        MissingExtraError: a package that the format needs is not installed.
    """
    if form == "csv":
        from trainwire_sinks.export.csv_file import CsvWriter

        return CsvWriter(file, with_run=with_run, is_terminal=is_terminal)
    if form == "jsonl":
        from trainwire_sinks.export.jsonl_file import JsonlWriter

        return JsonlWriter(file, with_run=with_run)
    try:
        from trainwire_sinks.export.parquet_file import ParquetWriter
    except ImportError as error:
        raise MissingExtraError("the format parquet", "parquet", "pyarrow") from error
    return ParquetWriter(file, with_run=with_run)
