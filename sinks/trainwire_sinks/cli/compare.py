"""`trainwire compare`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from typing import Annotated, Any, Final

from cyclopts import Parameter
from rich.table import Table
from rich.text import Text

from trainwire_protocol.errors import OptionError
from trainwire_protocol.events import Event
from trainwire_protocol.journal.attempts import LATEST
from trainwire_protocol.subscription.target import Target
from trainwire_protocol.wire import Batch
from trainwire_sinks.cli.named_targets import resolve_targets
from trainwire_sinks.cli.options import Filters, Selection
from trainwire_sinks.cli.ranks import parse_rank
from trainwire_sinks.cli.record_reader import read_record
from trainwire_sinks.cli.streams import make_table, print_table
from trainwire_sinks.inspect.compare import Divergence, Summary, compare_runs
from trainwire_sinks.text.format import cut, one_line, plain
from trainwire_sinks.text.json_lines import to_json

METRIC_TYPES: Final = frozenset({"scalar", "scalars"})

MAX_CHARACTERS: Final = 60
"""Characters of a name or a value before it is truncated."""

LISTED_METRICS: Final = 4
"""How many of the metrics that diverge at one step are listed."""


def compare(
    *targets: str,
    name: Annotated[list[str] | None, Parameter(negative="")] = None,
    rank: int = 0,
    attempt: Annotated[list[int] | None, Parameter(negative="")] = None,
    as_json: Annotated[bool, Parameter("--json", negative="")] = False,
) -> int:
    """Compare runs: hyperparameters, last metrics, and the steps at which metrics diverge from the first run's.

    A metric diverges at the first step at which both runs recorded it with different values. The attempts of one run
    are compared with each other: trainwire compare RUN --attempt 0 --attempt 1, or one with the run as it is now.

    Args:
        targets: Two or more runs: folders, connection files or addresses; or one run, with --attempt.
        name: Compare only metrics that match this pattern, such as 'dev/*'. May be given several times.
        rank: The rank to compare.
        attempt: Compare a run as it stood when this attempt ended; given once for all runs, or once for each in order.
        as_json: Print a JSON object instead of tables.
    """
    targets, attempts = _pair(targets, attempt or [])
    number = parse_rank(str(rank))
    selection = Selection(Filters(name))
    runs = resolve_targets(targets)
    recordings = [
        _read(run.target, number, selection, "comparing" if run is runs[0] else None, last)
        for run, last in zip(runs, attempts, strict=True)
    ]
    summaries = asyncio.run(compare_runs(recordings))
    if name:
        selection.check(" and ".join(run.text for run in runs))
    if as_json:
        texts = [run.text for run in runs]
        print(to_json(_as_json(list(map(_with_attempt, texts, attempts)), summaries), indent=2))
    else:
        labels = [run.label for run in runs]
        _print_tables(list(map(_with_attempt, labels, attempts)), summaries)
    for gap in (summary.gap for summary in summaries if summary.gap):
        raise gap
    return 0


def _pair(targets: Sequence[str], attempts: Sequence[int]) -> tuple[tuple[str, ...], Sequence[int]]:
    """Return the runs to compare, each with its last attempt.

    Raises:
        OptionError: fewer than two are named, or another number of attempts than of runs.
    """
    if len(targets) == 1 and attempts:
        attempts = [*attempts, *([LATEST] if len(attempts) == 1 else [])]
        targets = [targets[0]] * len(attempts)
    if len(targets) < 2:
        raise OptionError("compare needs two runs or more: trainwire compare RUN OTHER, or RUN --attempt N")
    if len(attempts) not in (0, 1, len(targets)):
        raise OptionError(
            f"--attempt is given {len(attempts)} times for {len(targets)} runs: give it once, or for each"
        )
    return tuple(targets), attempts if len(attempts) == len(targets) else [*attempts, LATEST][:1] * len(targets)


def _with_attempt(target: str, attempt: int) -> str:
    return target if attempt == LATEST else f"{target} attempt {attempt}"


async def _read(
    target: Target, rank: int, selection: Selection, activity: str | None, attempt: int
) -> AsyncIterator[tuple[Batch, Sequence[Event]]]:
    async for batch in read_record(target, rank, ("event",), activity, attempt=attempt):
        yield batch, selection.select([event for event in batch.events if event.type in METRIC_TYPES])


def _as_json(targets: Sequence[str], summaries: Sequence[Summary]) -> dict[str, Any]:
    runs = [
        {"target": target, "last_step": run.last_step, "hparams": run.hparams, "metrics": run.metrics}
        for target, run in zip(targets, summaries, strict=True)
    ]
    divergences = []
    for target, run in zip(targets[1:], summaries[1:], strict=True):
        first = run.first_divergence
        divergences.append({
            "targets": [targets[0], target],
            "first": first and {"step": first[0], "metrics": first[1]},
            "metrics": {name: divergence._asdict() for name, divergence in run.divergences.items()},
        })  # fmt: skip
    return {"runs": runs, "divergences": divergences}


def _print_tables(labels: Sequence[str], summaries: Sequence[Summary]) -> None:
    hparams = make_table("", "HPARAM", *labels)
    _add_rows(hparams, [summary.hparams for summary in summaries])
    columns = [f"{label} DIVERGES AT" for label in labels[1:]] if len(labels) > 2 else ["DIVERGES AT"]
    metrics = make_table("", "METRIC", *labels, *columns, right=columns)
    _add_rows(metrics, [summary.metrics for summary in summaries], [summary.divergences for summary in summaries[1:]])
    metrics.add_row("", "last step", *(Text(plain(summary.last_step)) for summary in summaries))
    for table in (hparams, metrics):
        print_table(table)
        print()
    print("\n".join(_sentences(labels, summaries)))


def _add_rows(
    table: Table, maps: Sequence[Mapping[str, Any]], divergences: Sequence[Mapping[str, Divergence]] = ()
) -> None:
    """Add a row for each name in any of the maps; values that differ from the first run's are marked."""
    for name in sorted({name for values in maps for name in values}):
        cells = [cut(plain(values[name]), MAX_CHARACTERS) if name in values else "" for values in maps]
        steps = [plain(found[name].step) if name in found else "" for found in divergences]
        texts = [plain(values.get(name, "")) for values in maps]
        differs = [text != texts[0] for text in texts]
        styles = ["bold" if differ else "" for differ in (any(differs) or any(steps), *differs, *map(bool, steps))]
        row = (cut(one_line(name), MAX_CHARACTERS), *cells, *steps)
        table.add_row("≠" if styles[0] else "", *map(Text, row, styles))


def _sentences(labels: Sequence[str], summaries: Sequence[Summary]) -> Iterator[str]:
    """Yield a sentence for each run but the first: where it diverges from the first."""
    for label, run in zip(labels[1:], summaries[1:], strict=True):
        pair = f"{labels[0]} and {label}"
        if first := run.first_divergence:
            step, names = first
            metrics = [f"{one_line(name)} ({' and '.join(map(plain, run.divergences[name].values))})" for name in names]
            more = f" and {len(names) - LISTED_METRICS} more" if len(names) > LISTED_METRICS else ""
            yield f"{pair} first diverge at step {step}: {', '.join(metrics[:LISTED_METRICS])}{more}"
        elif summaries[0].metrics.keys() & run.metrics.keys():
            yield f"{pair} have the same metrics at every step that both recorded"
        else:
            yield f"{pair} have no metric in common"
