"""Standard output and standard error of the command, and the tables printed there."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Final

from rich.console import Console
from rich.table import Table
from rich.text import Text

from trainwire_sinks.runtime.exit_codes import ExitCode
from trainwire_sinks.text.terminal import discard_output, has_colors

UNLIMITED_WIDTH: Final = 10_000
"""Width of a table that is not printed on a terminal, so that no line is wrapped for programs."""


def replace_closed_streams() -> None:
    """Replace standard streams that were closed when this process started, as by `>&-` and some daemons.

    Otherwise a file that is opened next would get their descriptor, and started programs would write to that file.
    """
    for descriptor, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            nothing = os.open(os.devnull, os.O_RDWR)  # the lowest free descriptor: this one, unless it is in use again
            os.set_inheritable(nothing, nothing == descriptor)
            setattr(sys, name, os.fdopen(nothing, "r" if name == "stdin" else "w", encoding="utf-8", closefd=False))


@contextlib.contextmanager
def tolerant_streams() -> Iterator[None]:
    """Escape characters that the terminal's encoding lacks, and exit if the output can no longer be written.

    The exit code is BROKEN_PIPE if its reader has closed it, and OUTPUT if its disk is full.
    """
    replace_closed_streams()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(AttributeError):  # a replaced stream may have no `reconfigure`
            stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]  # hence the line above
    try:
        yield
    finally:
        try:
            sys.stdout.flush()
        except OSError as error:
            sys.exit(report_lost_output(error))


def report_lost_output(error: OSError) -> ExitCode:
    """Discard the rest of standard output, which cannot be written; return the exit code.

    A reader that closes it, as `head` does, has read enough; any other reason is reported.
    """
    discard_output(sys.stdout)
    if isinstance(error, BrokenPipeError):
        return ExitCode.BROKEN_PIPE
    with contextlib.suppress(OSError):
        print(f"trainwire: standard output cannot be written: {error.strerror}", file=sys.stderr)
    return ExitCode.OUTPUT


def make_table(*columns: str, right: Collection[str] = ()) -> Table:
    """Return an empty table with these headings; the columns named in `right` are right-aligned."""
    table = Table(box=None, pad_edge=False, header_style="dim")
    for column in columns:
        table.add_column(Text(column), justify="right" if column in right else "left", overflow="fold")
    return table


def print_table(table: Table) -> None:
    """Print a table as wide as the terminal, without trailing spaces."""
    console = _console()
    with console.capture() as captured:
        console.print(table)
    print("\n".join(line.rstrip() for line in captured.get().splitlines()))


def print_rows(rows: Sequence[Mapping[str, Text]], *, right: Collection[str], optional: Sequence[str]) -> None:
    """Print one or more rows of cells by heading as a table with one line for each row.

    Args:
        right: Headings of the columns that are right-aligned.
        optional: Headings of columns to leave out, in this order, until the table fits the terminal; a last line
            names them.
    """
    console, headings, left_out = _console(), list(rows[0]), list[str]()

    def table() -> Table:
        made = make_table(*headings, right=right)
        for column in made.columns:
            column.overflow, column.no_wrap = "ellipsis", True
        for row in rows:
            made.add_row(*(row[heading] for heading in headings))
        return made

    unlimited = console.options.update_width(UNLIMITED_WIDTH)
    for heading in optional:
        if console.measure(table(), options=unlimited).maximum <= console.width:
            break
        if heading in headings:
            headings.remove(heading)
            left_out.append(heading)
    print_table(table())
    if left_out:
        print(f"(the terminal is too narrow for {', '.join(left_out)}; --json shows everything)")


def _console() -> Console:
    width = None if sys.stdout.isatty() else UNLIMITED_WIDTH
    return Console(width=width, no_color=not has_colors(sys.stdout), highlight=False)
