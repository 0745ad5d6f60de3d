"""Export as comma-separated values."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Any, BinaryIO, Final

from trainwire_protocol.events import Event
from trainwire_sinks.json_lines import to_json
from trainwire_sinks.text import one_line

COLUMNS: Final = ("name", "value", "type", "walltime", "step", "rank")

FORMULAS: Final = ("=", "+", "-", "@", "\t", "\r", "\n", "'")
"""Beginnings of a text that a spreadsheet may take for a formula (OWASP's list), and the apostrophe that marks them."""

Cell = str | int | float


class CsvWriter:
    """A row for each event; all text in quotes, so that no name can break a row, and all numbers without.

    A text that a spreadsheet could take for a formula has an apostrophe before it, and so has one that begins with
    an apostrophe. The value of a scalar is its number in full precision, that of a text the text; any other is JSON,
    in which an image or a sound has its size in bytes and not the bytes.
    """

    def __init__(self, file: BinaryIO, *, is_terminal: bool = False) -> None:
        self._file = file
        self._escape = one_line if is_terminal else str
        self._safe = lru_cache(4096)(self._make_safe)
        self._has_header = False

    def write(self, rank: int, events: Sequence[Event]) -> None:
        """Append events of a rank, the first ones below the header."""
        if not self._has_header:
            self._has_header = True
            self._write_rows([COLUMNS])
        self._write_rows(
            (
                self._safe(event.name), event.value if event.type == "scalar" else self._cell(event),
                self._safe(event.type), event.walltime, event.step, rank,
            )
            for event in events
        )  # fmt: skip

    def close(self) -> None:
        """Nothing is held back."""

    def _write_rows(self, rows: Iterable[Sequence[Cell]]) -> None:
        text = io.StringIO(newline="")
        csv.writer(text, quoting=csv.QUOTE_NONNUMERIC, lineterminator="\n").writerows(rows)
        self._file.write(text.getvalue().encode())

    def _cell(self, event: Event) -> Cell:
        return self._make_safe(event.value) if event.type == "text" else to_json(_without_bytes(event))

    def _make_safe(self, text: str) -> str:
        escaped = self._escape(text)
        return f"'{escaped}" if escaped.startswith(FORMULAS) else escaped


def _without_bytes(event: Event) -> Any:
    if event.type not in ("image", "audio"):
        return event.value
    return {**event.value, "data": len(event.value["data"])}
