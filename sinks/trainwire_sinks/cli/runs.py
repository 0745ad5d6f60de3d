"""`trainwire runs`."""

from __future__ import annotations

import time
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Final

from cyclopts import Parameter
from rich.text import Text

from trainwire_protocol.errors import TargetError
from trainwire_protocol.journal.attempts import LATEST
from trainwire_sinks.cli.streams import print_rows
from trainwire_sinks.inspect.overview import RunOverview, find_runs, has_attempt, read_overview
from trainwire_sinks.inspect.progress import SinkProgress
from trainwire_sinks.inspect.ranks import State, describe_ranks
from trainwire_sinks.text.format import duration, number, one_line
from trainwire_sinks.text.json_lines import to_json

STYLES: Final[dict[State, str]] = {
    "running": "green", "finished": "", "failed": "red", "interrupted": "yellow", "died": "red", "unreadable": "red",
}  # fmt: skip


def runs(
    root: Path | None = None,
    *,
    attempt: int | None = None,
    as_json: Annotated[bool, Parameter("--json", negative="")] = False,
) -> int:
    """List the runs under a folder: state, epoch, step, best score, age, stragglers and the progress of their sinks.

    Args:
        root: The folder; by default "runs" if it exists, or else the working directory.
        attempt: Show runs as they stood when this attempt ended, and only those that have it.
        as_json: Print a JSON list instead of a table.
    """
    folder = root or (Path("runs") if Path("runs").is_dir() else Path())
    if not folder.is_dir():
        raise TargetError(f"there is no folder {folder}")
    found = [run for run in find_runs(folder) if attempt is None or has_attempt(run, attempt)]
    overviews = [read_overview(run, LATEST if attempt is None else attempt) for run in found]
    if not overviews:
        raise TargetError(f"there is no run {'' if attempt is None else f'with an attempt {attempt} '}under {folder}")
    if as_json:
        fields = [
            asdict(run) | {"folder": str(run.folder), "sinks": [sink.as_json() for sink in run.sinks]}
            for run in overviews
        ]
        print(to_json(fields, indent=2))
    else:
        in_order, now = sorted(overviews, key=lambda run: run.started or 0), time.time()
        rows = [_row(folder, run, now) for run in in_order]
        if not any(len(run.ranks) > 1 for run in overviews):
            rows = [{heading: cell for heading, cell in row.items() if heading != "RANKS"} for row in rows]
        print_rows(rows, right=("EPOCH", "STEP"), optional=("AGE", "SINKS", "LAST EVENT", "RANKS"))
    return 0


def _row(root: Path, run: RunOverview, now: float) -> dict[str, Text]:
    """Return a run's cells by heading; `now` is in seconds since the epoch."""
    best, name = run.best, run.folder.resolve().name if run.folder == root else str(run.folder.relative_to(root))
    epochs = f"{run.epoch}/{run.max_epochs}" if run.max_epochs else str(run.epoch)
    cells = {
        "EPOCH": "" if run.epoch is None else epochs,
        "STEP": "" if run.step is None else f"{run.step:,}",
        "BEST": f"{best.metric} {number(best.score)}" + (f" (epoch {best.epoch})" if best.epoch else "")
        if best
        else "",
        "AGE": "" if run.started is None else duration(max(0, now - run.started)),
        "LAST EVENT": "" if run.last_event is None else f"{duration(max(0, now - run.last_event))} ago",
        "RANKS": describe_ranks(run.ranks),
        "SINKS": ", ".join(map(_describe_sink, run.sinks)),
    }
    marked = {"RUN": Text(one_line(name), "bold"), "STATE": Text(run.state, STYLES[run.state])}
    return marked | {heading: Text(one_line(cell)) for heading, cell in cells.items()}


def _describe_sink(sink: SinkProgress) -> str:
    name = f"{sink.sink} of rank {sink.rank}" if sink.rank else sink.sink
    if sink.cursor is None:
        return f"{name} (unreadable)"
    if sink.ahead:
        return f"{name} ({sink.ahead:,} ahead)"
    return f"{name} ({sink.behind:,} behind)" if sink.behind else name
