"""Standard output and standard error of the command."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Collection, Iterator
from typing import Final

from rich.console import Console
from rich.table import Table
from rich.text import Text

from trainwire_sinks.runtime.exit_codes import ExitCode
from trainwire_sinks.text.terminal import has_colours


@contextlib.contextmanager
def forgiving_streams() -> Iterator[None]:
    """Escape what the terminal's encoding lacks, and end as other programs do where nobody reads any more."""
    for stream in (sys.stdout, sys.stderr):
        # A stream that somebody has put in their place need not have an encoding.
        with contextlib.suppress(AttributeError):
            stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]  # hence the line above
    try:
        yield
    finally:
        try:
            sys.stdout.flush()
        except BrokenPipeError:
            # What is left would be tried, and complained about, once more when Python ends.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            sys.exit(ExitCode.BROKEN_PIPE)


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
