"""`trainwire compare`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Final

from cyclopts import Parameter
from rich.table import Table
from rich.text import Text

from trainwire_protocol.errors import OptionError
from trainwire_protocol.events import Event
from trainwire_protocol.subscription.target import Target, resolve_target
from trainwire_protocol.wire import Batch
from trainwire_sinks.cli.options import Filters, Selection, parse_rank
from trainwire_sinks.cli.recorded import read_recorded
from trainwire_sinks.cli.streams import make_table, print_table
from trainwire_sinks.inspect.compare import Summary, compare_runs
from trainwire_sinks.text.format import cut, one_line, plain
from trainwire_sinks.text.json_lines import to_json

METRICS: Final = frozenset({"scalar", "scalars"})

LONGEST: Final = 60
"""Characters of a name or a value before it is cut."""

TOLD_NAMES: Final = 4
"""How many of the metrics that part at one step are named."""


def compare(
    *targets: str,
    name: Annotated[list[str] | None, Parameter(negative="")] = None,
    rank: int = 0,
    as_json: Annotated[bool, Parameter("--json", negative="")] = False,
) -> int:
    """Compare runs: hyperparameters and last metrics side by side, and where metrics first part from the first run's.

    Two metrics part at the first step at which both runs recorded them, with different values.

    Args:
        targets: Two runs or more: folders, connection files or addresses.
        name: A pattern of the metrics to compare, as of files: 'dev/*'. Give it several times for several.
        rank: The process whose events are compared.
        as_json: Print one JSON object instead of tables.
    """
    if len(targets) < 2:
        raise OptionError("compare takes two runs or more: trainwire compare RUN OTHER")
    number = parse_rank(str(rank))
    selection = Selection(Filters(name))
    runs = [resolve_target(target) for target in targets]
    # An address may have been typed with a password.
    targets = tuple(str(run) if run.archive else target for run, target in zip(runs, targets, strict=True))
    summaries = asyncio.run(compare_runs([_read(run, number, selection, run is runs[0]) for run in runs]))
    if name:
        selection.check(" and ".join(map(str, runs)))
    labels = _labels(targets)
    if as_json:
        print(to_json(_fields(targets, summaries), indent=2))
    else:
        for table in _tables(labels, summaries):
            print_table(table)
            print()
        print("\n".join(_partings(labels, summaries)))
    for gap in (summary.gap for summary in summaries if summary.gap):
        raise gap
    return 0


async def _read(
    target: Target, rank: int, selection: Selection, has_bar: bool
) -> AsyncIterator[tuple[Batch, Sequence[Event]]]:
    # One bar is enough: runs are read step by step, all at once.
    async for batch in read_recorded(target, rank, ("event",), "comparing" if has_bar else None):
        yield batch, selection.select([event for event in batch.events if event.type in METRICS])


def _labels(targets: Sequence[str]) -> list[str]:
    """The runs' names, or what was typed where they would be the same."""
    names = [target if "://" in target else Path(target).resolve().name for target in targets]
    return [one_line(label) for label in (names if len(set(names)) == len(names) else targets)]


def _fields(targets: Sequence[str], summaries: Sequence[Summary]) -> dict[str, Any]:
    runs = [
        {"target": target, "last_step": run.last_step, "hparams": run.hparams, "metrics": run.metrics}
        for target, run in zip(targets, summaries, strict=True)
    ]
    return {"runs": runs, "partings": [_parting_fields(targets[0], *pair) for pair in _others(targets, summaries)]}


def _others(targets: Sequence[str], summaries: Sequence[Summary]) -> Iterator[tuple[str, Summary]]:
    return zip(targets[1:], summaries[1:], strict=True)


def _parting_fields(first: str, target: str, run: Summary) -> dict[str, Any]:
    told = run.first_parting
    return {
        "targets": [first, target],
        "first": told and {"step": told[0], "metrics": told[1]},
        "metrics": {name: parting._asdict() for name, parting in run.partings.items()},
    }


def _tables(labels: Sequence[str], summaries: Sequence[Summary]) -> Iterator[Table]:
    hparams = make_table("", "HPARAM", *labels)
    _add_rows(hparams, [summary.hparams for summary in summaries])
    yield hparams
    columns = [f"{label} PARTS AT" for label in labels[1:]] if len(labels) > 2 else ["PARTS AT"]
    metrics = make_table("", "METRIC", *labels, *columns, right=columns)
    _add_rows(metrics, [summary.metrics for summary in summaries], [summary.partings for summary in summaries[1:]])
    metrics.add_row("", "last step", *(Text(plain(summary.last_step)) for summary in summaries))
    yield metrics


def _add_rows(table: Table, maps: Sequence[dict[str, Any]], partings: Sequence[dict[str, Any]] = ()) -> None:
    """A row for each name in any of the maps; those whose values are not all the same are marked."""
    for name in sorted({name for values in maps for name in values}):
        cells = [cut(plain(values[name]), LONGEST) if name in values else "" for values in maps]
        steps = [plain(found[name].step) if name in found else "" for found in partings]
        is_same = len({plain(values.get(name, "")) for values in maps}) == 1 and not any(steps)
        style = "" if is_same else "bold"
        row = (cut(one_line(name), LONGEST), *cells, *steps)
        table.add_row("" if is_same else "≠", *(Text(cell, style) for cell in row))


def _partings(labels: Sequence[str], summaries: Sequence[Summary]) -> Iterator[str]:
    for label, run in _others(labels, summaries):
        told = run.first_parting
        if told:
            names = [f"{one_line(name)} ({' and '.join(map(plain, run.partings[name].values))})" for name in told[1]]
            more = f" and {len(names) - TOLD_NAMES} more" if len(names) > TOLD_NAMES else ""
            yield f"{labels[0]} and {label} first part at step {told[0]}: {', '.join(names[:TOLD_NAMES])}{more}"
        elif summaries[0].metrics.keys() & run.metrics.keys():
            yield f"{labels[0]} and {label} have the same metrics at every step that both recorded"
        else:
            yield f"{labels[0]} and {label} have no metric in common"
