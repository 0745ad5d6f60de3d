"""Writes a table of the run's epochs, for people, spreadsheets and plotting scripts.

ModelTrainer lists the metrics of an epoch in its `epoch/finished`, which says whether the epoch is complete, and those
of an evaluation within one in `epoch/evaluated`. A hand-written loop lists few or none: its values are the last ones of
all its scalars. The sink fills an open row from them, and adds it to the table when the epoch has finished. The table
is rewritten as a whole at the next flush: a new metric adds a column. What has to survive a restart is in `state`; the
committed rows are in the file.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from trainwire_protocol.errors import OutputChangedError
from trainwire_protocol.events import LAST_EVENTS, Event
from trainwire_sinks.runtime.sink import ReplaceSink, State
from trainwire_sinks.text.format import timestamp

Row = dict[str, str]
"""The cells of a row, by the name of the metric or field."""

FIXED_COLUMNS: Final = {
    "epoch": "EPOCH",
    "timestamp": "TIMESTAMP",
    "bad_epochs": "BAD_EPOCHS",
    "learning_rate": "LEARNING_RATE",
    "train/loss": "TRAIN_LOSS",
}
"""The columns of every loss file, with their headings."""

RATE: Final = "learning_rate"
"""The fixed column that those of several optimizers, such as `learning_rate/generator`, replace."""

METRIC_PREFIXES: Final = ("dev/", "val/", "test/", "train_sample/")
"""Scalars that belong to an epoch of a ModelTrainer even if its `epoch/finished` does not list them."""

ALIASES: Final = {"train_loss": "train/loss"}
"""Names that other trainers use for a fixed column; it takes their values if the run has none of its own name."""

STEP: Final = "step"
"""The column of the number of updates made before, which only files with evaluations within epochs have."""

MAX_COLUMNS: Final = 100
"""Number of metrics beyond which only those that name a split get a column."""

MAX_SPLIT_COLUMNS: Final = 1000
"""Number of metrics beyond which none gets a column."""

_GROUPS: Final = {
    "train": 0, "training": 0, "dev": 1, "val": 2, "valid": 2, "validation": 2, "eval": 2, "evaluation": 2, "test": 3,
}  # fmt: skip
"""Words at the beginning or end of a name that tell its split; columns are grouped in this order."""

_OTHER: Final = 4
_TRAIN_SAMPLE: Final = 5

logger = logging.getLogger("trainwire")


class LossFile(ReplaceSink):
    """Writes loss.tsv: one row for each epoch, with its losses, scores and learning rate.

    An evaluation within an epoch adds a row too. The file then has a column STEP, with the number of updates that were
    made before; the last row of an epoch is that of its end.

    The values of an epoch are those in its `epoch/finished` and, in a hand-written loop, the last ones of all scalars
    since the epoch began; it therefore needs only `bus.log` and `bus.finish_epoch`. A last row has what such a loop
    recorded after its last epoch, or without any epoch.
    """

    name = "loss-file"
    file_name = "loss.tsv"

    async def restore(self, state: State) -> None:
        """Resume with the columns, the number of rows and the open row."""
        self._columns: list[str] = state.get("columns", [])
        self._row_count: int = state.get("count", 0)
        self._open_row: Row = state.get("open", {})
        self._has_steps: bool = state.get("has_steps", False)
        """Whether rows have the number of updates made before, as there are evaluations within epochs."""
        self._has_rate: bool = state.get("has_rate", False)
        """Whether a row has a learning rate that is not that of one of several optimizers."""
        self._has_last_row: bool = state.get("has_last_row", True)
        """Whether what follows the last epoch gets a row: not if the epochs are those of a ModelTrainer."""
        self._left_out: str | None = None
        self._has_reported = False
        self._new_rows: list[Row] = []
        self._must_write = True
        if state:
            await self._read_rows()

    def state(self) -> State:
        """Return the columns beyond the fixed ones, the number of rows and the open row."""
        return {
            "columns": self._columns, "count": self._row_count, "open": self._open_row,
            "has_last_row": self._has_last_row, "has_steps": self._has_steps, "has_rate": self._has_rate,
        }  # fmt: skip

    async def handle(self, events: Sequence[Event]) -> None:
        """Collect the values of the epoch, and add its row when it has finished."""
        for event in events:
            if event.type == "hparams" and event.value.get("evaluate_each_k_steps"):
                self._has_steps = True
            elif event.type in ("scalar", "scalars"):
                self._collect(_items(event))
            elif event.type == "lifecycle":
                self._handle_lifecycle(event)

    async def flush(self) -> None:
        """Rewrite the table if it has changed."""
        if self._must_write or self._new_rows:
            rows = [*await self._read_rows(), *self._new_rows]
            names = [*self._columns, *(name for row in self._new_rows for name in row if name not in FIXED_COLUMNS)]
            self._columns = sorted(dict.fromkeys(names), key=_group)
            await self.output.replace(_format_table(_headings(self._columns, has_rate=self._has_rate), rows))
            self._row_count, self._new_rows, self._must_write = len(rows), [], False

    def _handle_lifecycle(self, event: Event) -> None:
        if event.name == "epoch/started":
            self._open_row = {}
        elif event.name == "epoch/evaluated":
            self._add_evaluation(event)
        elif event.name == "epoch/finished":
            self._finish_epoch(event)
        elif event.name in LAST_EVENTS and self._open_row and self._has_last_row:
            if not self._row_count and not self._new_rows:
                message = "loss.tsv has one row, as the run has no epochs; after each, call bus.finish_epoch(number)"
                logger.info(message)
            self._add_row(event)

    def _collect(self, metrics: Mapping[str, object]) -> None:
        """Add the metrics that are numbers to the open row, as far as there are columns for them."""
        for name, value in metrics.items():
            if isinstance(value, (int, float, list, tuple)):
                if name in self._open_row or name in FIXED_COLUMNS or self._has_room(name):
                    self._open_row[name] = _format_cell(value)
                else:
                    self._left_out = self._left_out or name

    def _has_room(self, name: str) -> bool:
        taken = max(len(self._open_row), len(self._columns))
        is_known = name in self._columns
        return is_known or taken < (MAX_COLUMNS if _group(name) == _OTHER else MAX_SPLIT_COLUMNS)

    def _add_evaluation(self, event: Event) -> None:
        """Add a row with the metrics of an evaluation within an epoch, beside the open one of the epoch."""
        metrics = event.value.get("metrics")
        metrics = metrics if isinstance(metrics, Mapping) else {}
        epoch = {name: cell for name, cell in self._open_row.items() if name not in metrics}
        self._has_last_row, self._has_steps, self._open_row = False, True, {}
        self._collect(metrics)
        self._collect({"epoch": event.value.get("epoch"), "bad_epochs": event.value.get("bad_epochs")})
        self._add_row(event)
        self._open_row = epoch

    def _finish_epoch(self, event: Event) -> None:
        metrics = event.value.get("metrics")
        if "complete" in event.value:  # the epoch of a ModelTrainer
            self._has_last_row, self._left_out = False, None
            kept = [name for name in self._open_row if name in FIXED_COLUMNS or name.startswith(METRIC_PREFIXES)]
            self._open_row = {name: self._open_row[name] for name in kept}
        if isinstance(metrics, Mapping):
            numbers = {name: value for name, value in metrics.items() if isinstance(value, (int, float, list, tuple))}
            self._open_row |= {name: _format_cell(value) for name, value in numbers.items()}
        self._collect({"epoch": event.value.get("epoch"), "bad_epochs": event.value.get("bad_epochs")})
        self._add_row(event)

    def _add_row(self, event: Event) -> None:
        """Add the open row to the table, and begin another."""
        for alias, name in ALIASES.items():
            if alias in self._open_row and name not in self._open_row:
                self._open_row[name] = self._open_row.pop(alias)
        if self._left_out is not None and not self._has_reported:
            self._has_reported = True
            message = (
                "loss.tsv leaves out %r and other metrics: beyond %d columns it takes only names that begin or end "
                "with train, dev, val, valid, eval or test"
            )
            logger.warning(message, self._left_out, MAX_COLUMNS)
        self._open_row["timestamp"] = timestamp(event.walltime)
        if self._has_steps:
            self._open_row[STEP] = str(event.step)
        self._has_rate = self._has_rate or RATE in self._open_row
        self._new_rows.append(self._open_row)
        self._open_row = {}

    async def _read_rows(self) -> list[Row]:
        """Return the committed rows from the file, which may hold later ones too if a crash preceded the commit.

        Raises:
            OutputChangedError: the file does not hold these rows.
        """
        if not self._row_count:
            return []
        header, *lines = (await self.output.read()).decode(errors="replace").splitlines() or [""]
        known = {heading: name for name, heading in _headings(self._columns, has_rate=self._has_rate).items()}
        names = [known.get(heading) for heading in header.split("\t")]
        rows = [line.split("\t") for line in lines[: self._row_count]]
        optional = set() if self._has_rate else {RATE}  # later rows may have replaced the column, which is empty
        is_complete = set(known.values()) - optional <= set(names) and len(rows) == self._row_count
        if not is_complete or any(len(row) != len(names) for row in rows):
            raise OutputChangedError(f"{self.output.path} does not hold the {self._row_count} rows that were written")
        return [{name: cell for name, cell in zip(names, row, strict=True) if name is not None} for row in rows]


def _group(name: str) -> int:
    """Return the number of the group of a metric's column: its name begins or ends with its split."""
    if name == STEP:
        return -1
    if name.startswith("train_sample/"):
        return _TRAIN_SAMPLE
    words = re.split(r"[^a-z0-9]+", name.lower())
    return next((_GROUPS[word] for word in (words[0], words[-1]) if word in _GROUPS), _OTHER)


def _items(event: Event) -> Mapping[str, object]:
    """Return the metrics in a scalar or in scalars; those that have labels are one metric for each label."""
    if isinstance(event.value, Mapping):
        return {f"{event.name}/{label}": number for label, number in event.value.items()}
    return {event.name: event.value}


def _format_cell(value: float | Sequence[float]) -> str:
    """Return a number in full precision; a list, such as a learning rate for each parameter group, joined by commas."""
    return ",".join(map(_format_cell, value)) if isinstance(value, (list, tuple)) else repr(value)


def _headings(columns: Sequence[str], *, has_rate: bool) -> dict[str, str]:
    """Return a distinct heading for each column: upper-case, with "_" for characters that would break the table.

    Args:
        has_rate: Whether the rows have a `learning_rate`. Otherwise those of several optimizers are in its place.
    """
    fixed = list(FIXED_COLUMNS)
    if not has_rate and (rates := [name for name in columns if name.startswith(f"{RATE}/")]):
        place = fixed.index(RATE)
        fixed[place : place + 1] = rates
    headings: dict[str, str] = {}
    for name in dict.fromkeys([*fixed, *columns]):
        if name in FIXED_COLUMNS:
            headings[name] = FIXED_COLUMNS[name]
            continue
        heading = base = "".join(c if c.isprintable() and c not in " /" else "_" for c in name.upper())
        number = 2
        while heading in headings.values():
            heading, number = f"{base}_{number}", number + 1
        headings[name] = heading
    return headings


def _format_table(headings: Mapping[str, str], rows: Iterable[Row]) -> str:
    lines = [headings.values(), *([row.get(name, "") for name in headings] for row in rows)]
    return "".join("\t".join(line) + "\n" for line in lines)
