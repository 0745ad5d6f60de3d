"""`trainwire runs`."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Final

from cyclopts import Parameter
from rich.table import Table
from rich.text import Text

from trainwire_protocol.errors import TargetError
from trainwire_sinks.cli.streams import make_table, print_table
from trainwire_sinks.inspect.overview import RunOverview, find_runs, read_overview
from trainwire_sinks.inspect.progress import SinkProgress
from trainwire_sinks.inspect.ranks import State, describe_ranks
from trainwire_sinks.text.format import duration, number, one_line
from trainwire_sinks.text.json_lines import to_json

STYLES: Final[dict[State, str]] = {
    "running": "green", "finished": "", "failed": "red", "interrupted": "yellow", "died": "red", "unreadable": "red",
}  # fmt: skip


def runs(root: Path | None = None, *, as_json: Annotated[bool, Parameter("--json", negative="")] = False) -> int:
    """List the runs under a folder: state, epoch, step, best score, age, stragglers and the progress of their sinks.

    Args:
        root: The folder; by default "runs" if it exists, or else the working directory.
        as_json: Print a JSON list instead of a table.
    """
    folder = root or (Path("runs") if Path("runs").is_dir() else Path())
    if not folder.is_dir():
        raise TargetError(f"there is no folder {folder}")
    overviews = [read_overview(found) for found in find_runs(folder)]
    if not overviews:
        raise TargetError(f"there is no run under {folder}")
    if as_json:
        fields = [
            asdict(run) | {"folder": str(run.folder), "sinks": [sink.as_json() for sink in run.sinks]}
            for run in overviews
        ]
        print(to_json(fields, indent=2))
    else:
        print_table(_table(folder, sorted(overviews, key=lambda run: run.started or 0), time.time()))
    return 0


def _table(root: Path, overviews: Sequence[RunOverview], now: float) -> Table:
    has_ranks = any(len(run.ranks) > 1 for run in overviews)
    columns = ["EPOCH", "STEP", "BEST", "AGE", "LAST EVENT", *(["RANKS"] if has_ranks else []), "SINKS"]
    table = make_table("RUN", "STATE", *columns, right=("EPOCH", "STEP"))
    for run in overviews:
        name = run.folder.resolve().name if run.folder == root else str(run.folder.relative_to(root))
        cells = (Text(one_line(cell)) for cell in _cells(run, now, has_ranks=has_ranks))
        table.add_row(Text(one_line(name), "bold"), Text(run.state, STYLES[run.state]), *cells)
    return table


def _cells(run: RunOverview, now: float, *, has_ranks: bool) -> Iterator[str]:
    yield "" if run.epoch is None else f"{run.epoch}/{run.max_epochs}" if run.max_epochs else str(run.epoch)
    yield "" if run.step is None else f"{run.step:,}"
    best = run.best
    yield f"{best.metric} {number(best.score)}" + (f" (epoch {best.epoch})" if best.epoch else "") if best else ""
    yield "" if run.started is None else duration(max(0, now - run.started))
    yield "" if run.last_event is None else f"{duration(max(0, now - run.last_event))} ago"
    if has_ranks:
        yield describe_ranks(run.ranks)
    yield ", ".join(map(_describe_sink, run.sinks))


def _describe_sink(sink: SinkProgress) -> str:
    name = f"{sink.sink} of rank {sink.rank}" if sink.rank else sink.sink
    if sink.cursor is None:
        return f"{name} (unreadable)"
    if sink.ahead:
        return f"{name} ({sink.ahead:,} ahead)"
    return f"{name} ({sink.behind:,} behind)" if sink.behind else name
