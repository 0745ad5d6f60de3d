"""`trainwire export`."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, BinaryIO, Final

from cyclopts import Parameter

from trainwire_protocol.errors import IncompleteError, OptionError, OutputError
from trainwire_protocol.subscription.target import Target, resolve_target
from trainwire_sinks.cli.options import ALL, Filters, Selection
from trainwire_sinks.cli.recorded import find_ranks, read_recorded
from trainwire_sinks.export.writer import Format, Writer, make_writer
from trainwire_sinks.text.format import one_line

STANDARD_OUTPUT: Final = Path("-")

logger = logging.getLogger("trainwire")


def export(
    target: str,
    *,
    form: Annotated[Format | None, Parameter("--format")] = None,
    output: Annotated[Path | None, Parameter(["--output", "-o"], allow_leading_hyphen=True)] = None,
    filters: Annotated[Filters, Parameter("*")] = ALL,
    from_step: Annotated[int | None, Parameter(["--from-step", "--from"])] = None,
    rank: str = "0",
) -> int:
    """Write a run's events as one file: trainwire export RUN --type scalar -o run.parquet

    Everything that is recorded by now and that counts: what a resumed run has superseded is left out. Each event is a
    row with its name, value, type, walltime, step and rank.

    Args:
        target: A run's folder, a connection file or an address.
        form: csv, jsonl or parquet; if left out, what the output's name ends with, or else csv.
        output: The file, which is there once it is whole; standard output if left out, or "-".
        filters: Which events.
        from_step: Leave out events of earlier steps.
        rank: The process whose events are wanted, or "all".
    """
    where = resolve_target(target)
    output = None if output == STANDARD_OUTPUT else output
    if output is not None and str(output).startswith("-"):
        raise OptionError(f"-o needs a file, and {output} looks like an option: write ./{output} if it is one")
    form = form or _format_of(output)
    if form == "parquet" and output is None and sys.stdout.isatty():
        raise OptionError("parquet is nothing for a terminal: name a file with -o")
    selection = Selection(filters, from_step)
    ranks = find_ranks(where, rank)
    with _opened(output) as file, _closing(make_writer(form, file, is_terminal=file.isatty())) as writer:
        what = None if file.isatty() else "exporting"
        gaps = [asyncio.run(_write(writer, where, number, selection, what)) for number in ranks]
        selection.check(where)
    for pattern in selection.unmatched:
        logger.warning("no event's name matches %r", one_line(pattern))
    for gap in filter(None, gaps):
        raise gap
    return 0


async def _write(
    writer: Writer, target: Target, rank: int, selection: Selection, what: str | None
) -> IncompleteError | None:
    """Write what there is; returns the error that says that there should be more."""
    try:
        async for batch in read_recorded(target, rank, selection.channels, what):
            if found := selection.select(batch.events):
                writer.write(rank, found)
    except IncompleteError as error:
        if not selection.count:
            raise
        return error
    return None


def _format_of(output: Path | None) -> Format:
    if output is None or not output.suffix:
        return "csv"
    match output.suffix.lower():
        case ".csv":
            return "csv"
        case ".jsonl" | ".ndjson":
            return "jsonl"
        case ".parquet" | ".pq":
            return "parquet"
    raise OptionError(f"{output} does not say in which format: give --format csv, jsonl or parquet")


@contextlib.contextmanager
def _closing(writer: Writer) -> Iterator[Writer]:
    """Close the writer, also where nothing follows what it was given."""
    try:
        yield writer
    except BaseException:
        # What failed is told by the error that is on its way.
        with contextlib.suppress(Exception):
            writer.close()
        raise
    writer.close()


@contextlib.contextmanager
def _opened(output: Path | None) -> Iterator[BinaryIO]:
    """Standard output, or a file that is in its place once it is whole."""
    try:
        if output is None:
            yield sys.stdout.buffer
            sys.stdout.buffer.flush()
        elif output.exists() and not output.is_file():
            with output.open("wb") as file:
                yield file
        else:
            with _replacing(output) as file:
                yield file
    except BrokenPipeError:
        raise
    except OSError as error:
        place = output or "standard output"
        raise OutputError(f"cannot write {place}: {error.strerror or error}; choose another file with -o") from error


@contextlib.contextmanager
def _replacing(output: Path) -> Iterator[BinaryIO]:
    aside = output.with_name(f".{output.name[:64]}.{secrets.token_hex(4)}")
    try:
        with aside.open("xb") as file:
            yield file
        aside.replace(output)
    finally:
        aside.unlink(missing_ok=True)
