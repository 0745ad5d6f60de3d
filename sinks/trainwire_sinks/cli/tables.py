"""Tables on standard output."""

from __future__ import annotations

import sys
from collections.abc import Collection
from typing import Final

from rich.console import Console
from rich.table import Table
from rich.text import Text

from trainwire_sinks.terminal import has_colours

WIDE: Final = 10_000
"""Columns of a line where no terminal limits it: nothing is wrapped for a program that reads."""


def make_table(*columns: str, right: Collection[str] = ()) -> Table:
    """A table with these headings, which may be names; the columns called `right` are of numbers."""
    table = Table(box=None, pad_edge=False, header_style="dim")
    for column in columns:
        table.add_column(Text(column), justify="right" if column in right else "left", overflow="fold")
    return table


def print_table(table: Table) -> None:
    """Print it as wide as the terminal is, and without spaces at the ends of its lines."""
    is_terminal = sys.stdout.isatty()
    console = Console(width=None if is_terminal else WIDE, no_color=not has_colours(sys.stdout), highlight=False)
    with console.capture() as captured:
        console.print(table)
    print("\n".join(line.rstrip() for line in captured.get().splitlines()))
