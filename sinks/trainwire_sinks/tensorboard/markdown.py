"""Tables in Markdown, as TensorBoard's text dashboard reads it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from itertools import islice
from typing import Final

from trainwire_sinks.text.format import plain

MAX_ROWS: Final = 1000
"""Most rows of a table that are shown: TensorBoard formats a table anew for each look at it."""

_SPECIAL: Final = re.compile(r"([\\`*_\[\]|])")


def markdown_table(columns: Sequence[object], rows: Iterable[Sequence[object]]) -> str:
    """A table whose cells show what they hold, whatever it is.

    Rows that are shorter than `columns` are filled up, and what is beyond them is left out, as Markdown has it.
    """
    remaining = iter(rows)
    lines = [_line(columns), _line(["---"] * len(columns), escape=False)]
    lines += [_line([*row, *[""] * len(columns)][: len(columns)]) for row in islice(remaining, MAX_ROWS)]
    if left_out := sum(1 for _ in remaining):
        lines.append(f"\nand {left_out} more rows")
    return "\n".join(lines)


def _line(cells: Iterable[object], *, escape: bool = True) -> str:
    return "| " + " | ".join(_cell(cell) if escape else str(cell) for cell in cells) + " |"


def _cell(value: object) -> str:
    text = plain(value).replace("&", "&amp;").replace("<", "&lt;")
    return _SPECIAL.sub(r"\\\1", text)
