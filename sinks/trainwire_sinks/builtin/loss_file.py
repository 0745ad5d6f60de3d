"""Writes a table of the run's epochs, for people, spreadsheets and plotting scripts.

The sink fills an open row from the events of an epoch, and adds it to the table when the epoch has finished. The table
is rewritten as a whole at the next flush, because a new metric adds a column. What has to survive a restart is in
`state`: the columns, the number of committed rows, and the open row. The committed rows themselves are in the file.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from trainwire_protocol.errors import OutputChangedError
from trainwire_protocol.events import Event
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

METRIC_PREFIXES: Final = ("dev/", "val/", "test/", "train_sample/")
"""Metrics with one of these prefixes get a column when they first appear; columns are grouped in this order."""


class LossFile(ReplaceSink):
    """Writes loss.tsv: one row for each epoch, with its losses, scores and learning rate.

    The values of an epoch are those in its `epoch/finished`, and for metrics missing there, the last scalars since the
    epoch began. A hand-written loop therefore needs only `bus.log` and `bus.finish_epoch`.
    """

    name = "loss-file"
    file_name = "loss.tsv"

    async def restore(self, state: State) -> None:
        """Resume with the columns, the number of rows and the open row."""
        self._columns: list[str] = state.get("columns", [])
        self._row_count: int = state.get("count", 0)
        self._open_row: Row = state.get("open", {})
        self._new_rows: list[Row] = []
        self._must_write = True
        if state:
            await self._read_rows()

    def state(self) -> State:
        """Return the columns beyond the fixed ones, the number of rows and the open row."""
        return {"columns": self._columns, "count": self._row_count, "open": self._open_row}

    async def handle(self, events: Sequence[Event]) -> None:
        """Collect the values of the epoch, and add its row when it has finished."""
        for event in events:
            if event.type in ("scalar", "scalars"):
                self._collect({event.name: event.value})
            elif event.name == "epoch/started" and event.type == "lifecycle":
                self._open_row = {}
            elif event.name == "epoch/finished" and event.type == "lifecycle":
                self._finish_row(event)

    async def flush(self) -> None:
        """Rewrite the table if it has changed."""
        if self._must_write or self._new_rows:
            rows = [*await self._read_rows(), *self._new_rows]
            names = [*self._columns, *(name for row in self._new_rows for name in row if name not in FIXED_COLUMNS)]
            self._columns = sorted(dict.fromkeys(names), key=_group)
            await self.output.replace(_format_table(_headings(self._columns), rows))
            self._row_count, self._new_rows, self._must_write = len(rows), [], False

    def _collect(self, metrics: Mapping[str, object]) -> None:
        """Add the metrics that have a column and are numbers to the open row."""
        for name, value in metrics.items():
            has_column = name in FIXED_COLUMNS or name.startswith(METRIC_PREFIXES)
            if has_column and isinstance(value, (int, float, list, tuple)):
                self._open_row[name] = _format_cell(value)

    def _finish_row(self, event: Event) -> None:
        metrics = event.value.get("metrics")
        if isinstance(metrics, Mapping):
            self._collect(metrics)
        self._collect({"epoch": event.value.get("epoch"), "bad_epochs": event.value.get("bad_epochs")})
        self._open_row["timestamp"] = timestamp(event.walltime)
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
        known = {heading: name for name, heading in _headings(self._columns).items()}
        names = [known.get(heading) for heading in header.split("\t")]
        rows = [line.split("\t") for line in lines[: self._row_count]]
        is_complete = set(known.values()) <= set(names) and len(rows) == self._row_count
        if not is_complete or any(len(row) != len(names) for row in rows):
            raise OutputChangedError(f"{self.output.path} does not hold the {self._row_count} rows that were written")
        return [{name: cell for name, cell in zip(names, row, strict=True) if name is not None} for row in rows]


def _group(name: str) -> int:
    return next(position for position, prefix in enumerate(METRIC_PREFIXES) if name.startswith(prefix))


def _format_cell(value: float | Sequence[float]) -> str:
    """Return a number in full precision; a list, such as a learning rate for each parameter group, joined by commas."""
    return ",".join(map(_format_cell, value)) if isinstance(value, (list, tuple)) else repr(value)


def _headings(columns: Iterable[str]) -> dict[str, str]:
    """Return a distinct heading for each column: upper-case, with "_" for characters that would break the table."""
    headings = dict(FIXED_COLUMNS)
    for name in columns:
        heading = base = "".join(c if c.isprintable() and c not in " /" else "_" for c in name.upper())
        number = 2
        while heading in headings.values():
            heading, number = f"{base}_{number}", number + 1
        headings[name] = heading
    return headings


def _format_table(headings: Mapping[str, str], rows: Iterable[Row]) -> str:
    lines = [headings.values(), *([row.get(name, "") for name in headings] for row in rows)]
    return "".join("\t".join(line) + "\n" for line in lines)
