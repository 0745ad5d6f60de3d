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
from trainwire_protocol.journal.attempts import LATEST
from trainwire_sinks.cli.named_targets import NamedTarget, resolve_targets
from trainwire_sinks.cli.options import ALL_EVENTS, Filters, Selection
from trainwire_sinks.cli.ranks import find_ranks
from trainwire_sinks.cli.record_reader import read_record
from trainwire_sinks.export.writer import ExportWriter, Format, make_writer
from trainwire_sinks.text.format import one_line

STANDARD_OUTPUT: Final = Path("-")

logger = logging.getLogger("trainwire")


def export(
    *targets: str,
    form: Annotated[Format | None, Parameter("--format")] = None,
    output: Annotated[Path | None, Parameter(["--output", "-o"], allow_leading_hyphen=True)] = None,
    filters: Annotated[Filters, Parameter("*")] = ALL_EVENTS,
    from_step: Annotated[int | None, Parameter(["--from-step", "--from"])] = None,
    rank: str = "0",
    attempt: int | None = None,
) -> int:
    """Write the events of one or more runs to one file: trainwire export RUN --type scalar -o run.parquet

    All events recorded so far are written, without those that a resumed run has superseded. Each event is a row with
    its name, value, type, walltime, step and rank; of several runs, also with the run.

    Args:
        targets: Runs' folders, connection files or addresses.
        form: csv, jsonl or parquet; by default that of the output's suffix, or csv if there is none.
        output: The file, which appears only when it is complete; by default, or if it is "-", standard output.
        filters: Which events.
        from_step: Leave out events of earlier steps.
        rank: The rank to read, or "all".
        attempt: Write the run as it stood when this attempt ended, with what it had resumed.
    """
    if not targets:
        raise OptionError("the run is missing: trainwire export RUN")
    output = None if output == STANDARD_OUTPUT else output
    if output is not None and str(output).startswith("-"):
        raise OptionError(f"-o needs a file, and {output} looks like an option: write ./{output} if it is a file")
    runs = resolve_targets(targets)
    form = form or _format_of(output)
    if form == "parquet" and output is None and sys.stdout.isatty():
        raise OptionError("parquet cannot be written to a terminal: name a file with -o")
    selection = Selection(filters, from_step)
    streams = [(run, number) for run in runs for number in find_ranks(run.target, rank)]
    with _open_output(output) as file:
        activity = None if file.isatty() else "exporting"
        last = LATEST if attempt is None else attempt
        with _closing(make_writer(form, file, with_run=len(runs) > 1, is_terminal=file.isatty())) as writer:
            gaps = [asyncio.run(_write(writer, run, number, selection, activity, last)) for run, number in streams]
            selection.check(" and ".join(run.text for run in runs))
    for pattern in selection.unmatched:
        logger.warning("no event's name matches %r", one_line(pattern))
    for gap in filter(None, gaps):
        raise gap
    return 0


async def _write(
    writer: ExportWriter, run: NamedTarget, rank: int, selection: Selection, activity: str | None, attempt: int
) -> IncompleteError | None:
    """Write the selected events of a run's rank; return the error if events are missing from the record."""
    try:
        async for batch in read_record(run.target, rank, selection.channels, activity, attempt=attempt):
            if events := selection.select(batch.events):
                writer.write(run.label, rank, events)
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
    raise OptionError(f"the format of {output} is unknown: add --format csv, jsonl or parquet")


@contextlib.contextmanager
def _closing(writer: ExportWriter) -> Iterator[ExportWriter]:
    try:
        yield writer
    except BaseException:
        with contextlib.suppress(Exception):  # the first error is the one to report
            writer.close()
        raise
    writer.close()


@contextlib.contextmanager
def _open_output(output: Path | None) -> Iterator[BinaryIO]:
    """Open standard output, or a file that replaces `output` when it is complete."""
    try:
        if output is None:
            yield sys.stdout.buffer
            sys.stdout.buffer.flush()
        elif output.exists() and not output.is_file():
            with output.open("wb") as file:
                yield file
        else:
            with _open_replacement(output) as file:
                yield file
    except BrokenPipeError:
        raise
    except OSError as error:
        name = output or "standard output"
        raise OutputError(f"cannot write {name}: {error.strerror or error}; choose another file with -o") from error


@contextlib.contextmanager
def _open_replacement(output: Path) -> Iterator[BinaryIO]:
    temporary = output.with_name(f".{output.name[:64]}.{secrets.token_hex(4)}")
    try:
        with temporary.open("xb") as file:
            yield file
        temporary.replace(output)
    finally:
        temporary.unlink(missing_ok=True)
