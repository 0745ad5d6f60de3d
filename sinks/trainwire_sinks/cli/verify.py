"""`trainwire verify`."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from trainwire_protocol.errors import IncompleteError, TargetError
from trainwire_protocol.journal.run_folder import read_run_name
from trainwire_protocol.journal.verification import AttemptReport, verify_run
from trainwire_protocol.subscription.target import resolve_publisher, suggest_run
from trainwire_sinks.cli.progress_bars import count_events, progress_bar
from trainwire_sinks.inspect.progress import SinkProgress, read_progress
from trainwire_sinks.runtime.exit_codes import ExitCode


def verify(
    target: str,
    *,
    output: Annotated[list[Path] | None, Parameter(negative="")] = None,
    as_json: Annotated[bool, Parameter("--json", negative="")] = False,
) -> int:
    """Verify that a run's record is complete, or report exactly what is missing, and how far each sink is.

    Args:
        target: A run's folder.
        output: A folder that sinks write to, in addition to the run's folder. May be given several times.
        as_json: Print a JSON object instead of text.

    Returns:
        0 if the record is complete, 6 if something is missing.
    """
    folder = resolve_publisher(target, "verify reads the journal").folder
    if folder is None:
        raise TargetError(f"verify reads the journal, but {target} is an address: name the run's folder")
    run = read_run_name(folder)
    try:
        reports = _verify(folder) if run else []
    except OSError as error:
        raise IncompleteError(f"the record in {folder} cannot be read: {error}") from error
    if run is None or not reports:
        raise TargetError(f"there is no run in {folder}: it has no journal{suggest_run(folder)}")
    folders = dict.fromkeys([folder, *(output or [])])
    sinks = [progress for place in folders for progress in read_progress(run, place, reports)]
    print(_as_json(run, reports, sinks) if as_json else "\n".join(_as_text(run, folder, reports, sinks)))
    return ExitCode.OK if _is_whole(reports, sinks) else ExitCode.NOT_WHOLE


def _verify(folder: Path) -> list[AttemptReport]:
    done = 0
    with progress_bar("verifying", count_events(folder)) as report:

        def add(events: int) -> None:
            nonlocal done
            done += events
            report(done)

        return verify_run(folder, add)


def _is_whole(reports: Sequence[AttemptReport], sinks: Sequence[SinkProgress]) -> bool:
    return all(report.is_whole for report in reports) and not any(sink.ahead for sink in sinks)


def _as_json(run: str, reports: Sequence[AttemptReport], sinks: Sequence[SinkProgress]) -> str:
    attempts = []
    for report in reports:
        origin = report.resumed_from and report.resumed_from._asdict()
        attempts.append(asdict(report) | {"is_whole": report.is_whole, "resumed_from": origin})
    fields = {"run": run, "is_whole": _is_whole(reports, sinks), "attempts": attempts}
    fields["sinks"] = [sink.as_json() for sink in sinks]
    return json.dumps(fields, indent=2)


def _as_text(run: str, folder: Path, reports: Sequence[AttemptReport], sinks: Sequence[SinkProgress]) -> Iterator[str]:
    yield f"run {run} in {folder}"
    for report in reports:
        yield f"  rank {report.rank}, attempt {report.attempt}: {report.events} events, {_describe_end(report)}"
        yield from (f"    {line}" for line in _findings(report))
    for sink in sinks:
        yield f"  sink {sink.sink}, rank {sink.rank}, in {sink.output}: {_describe_sink(sink)}"
    if _is_whole(reports, sinks):
        yield "whole: no numbered event is missing"
    else:
        yield "NOT WHOLE: what is missing is listed above"


def _describe_end(report: AttemptReport) -> str:
    if report.ending:
        return report.ending.replace("/", " ")
    if report.is_live:
        return "still running"
    return "its last event is missing" if report.is_cut else "died"


def _findings(report: AttemptReport) -> Iterator[str]:
    """Yield what was found in an attempt, the worst first."""
    for first, last in report.missing:
        yield f"MISSING {_range(first, last)}"
    for first, last in report.lost:
        yield f"LOST {_range(first, last)}: they could not be written to the disk (journal/missing)"
    for damage in report.damages:
        yield f"DAMAGED {damage}"
    if report.malformed:
        yield f"UNREADABLE {report.malformed} events"
    if report.dropped:
        yield f"DROPPED {report.dropped} values before they were numbered (events/dropped)"
    if report.superseded:
        yield f"superseded: {_range(*report.superseded)}"
    if report.torn_bytes:
        yield f"torn end: {report.torn_bytes} bytes that were being written when the process died"


def _range(first: int, last: int) -> str:
    return f"seq {first} to {last} ({last - first + 1} events)"


def _describe_sink(sink: SinkProgress) -> str:
    if sink.cursor is None:
        return "its cursor cannot be read; when it is started again, it writes its output from the beginning"
    place = f"attempt {sink.cursor.attempt}, seq {sink.cursor.seq}"
    if sink.ahead:
        return f"AHEAD of the record by {sink.ahead} events, at {place}: the disk has lost events that were journaled"
    return f"{sink.behind} events behind, at {place}" if sink.behind else f"has everything, up to {place}"
