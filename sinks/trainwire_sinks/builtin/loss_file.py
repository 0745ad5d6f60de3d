"""The loss file: a table of a run's epochs, to be read by people, spreadsheets and plotting scripts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from trainwire_protocol.errors import OutputChangedError
from trainwire_protocol.events import Event
from trainwire_sinks.runtime.base import ReplaceSink, State
from trainwire_sinks.text.format import timestamp

Row = dict[str, str]
"""A row's cells by the name of their column."""

FIXED: Final = {
    "epoch": "EPOCH",
    "timestamp": "TIMESTAMP",
    "bad_epochs": "BAD_EPOCHS",
    "learning_rate": "LEARNING_RATE",
    "train/loss": "TRAIN_LOSS",
}
"""The columns that every loss file has, with their headings."""

GROUPS: Final = ("dev/", "val/", "test/", "train_sample/")
"""Metrics that get a column when they are first seen, in this order of groups."""


class LossFile(ReplaceSink):
    """Writes loss.tsv: one row for each epoch, with its losses, scores and learning rate.

    An epoch's values are those of its `epoch/finished`, and for what is not in there the last scalars since it began:
    so a hand-written loop needs no more than `bus.log` and an `epoch/finished` with the epoch's number.
    """

    name = "loss-file"
    file_name = "loss.tsv"

    async def restore(self, state: State) -> None:
        """Take up the columns, the number of rows and the open row."""
        self._columns: list[str] = state.get("columns", [])
        self._count: int = state.get("count", 0)
        self._open: Row = state.get("open", {})
        self._new_rows: list[Row] = []
        self._is_stale = True
        if state:
            await self._read_rows()

    def state(self) -> State:
        """The columns beyond the fixed ones, the number of rows and the open row."""
        return {"columns": self._columns, "count": self._count, "open": self._open}

    async def handle(self, events: Sequence[Event]) -> None:
        """Collect an epoch's values, and make a row of them when it is finished."""
        for event in events:
            if event.type in ("scalar", "scalars"):
                self._collect({event.name: event.value})
            elif event.name == "epoch/started" and event.type == "lifecycle":
                self._open = {}
            elif event.name == "epoch/finished" and event.type == "lifecycle":
                self._finish(event)

    async def flush(self) -> None:
        """Write the table, if there is something new in it."""
        if self._is_stale or self._new_rows:
            rows = [*await self._read_rows(), *self._new_rows]
            names = [*self._columns, *(name for row in self._new_rows for name in row if name not in FIXED)]
            self._columns = sorted(dict.fromkeys(names), key=_group)
            await self.output.replace(_format(_headings(self._columns), rows))
            self._count, self._new_rows, self._is_stale = len(rows), [], False

    def _collect(self, metrics: Mapping[str, object]) -> None:
        for name, value in metrics.items():
            if (name in FIXED or name.startswith(GROUPS)) and isinstance(value, (int, float, list, tuple)):
                self._open[name] = _cell(value)

    def _finish(self, event: Event) -> None:
        metrics = event.value.get("metrics")
        if isinstance(metrics, Mapping):
            self._collect(metrics)
        self._collect({"epoch": event.value.get("epoch"), "bad_epochs": event.value.get("bad_epochs")})
        self._open["timestamp"] = timestamp(event.walltime)
        self._new_rows.append(self._open)
        self._open = {}

    async def _read_rows(self) -> list[Row]:
        """The rows that were committed, out of the file; it may hold more, from after that."""
        if not self._count:
            return []
        header, *lines = (await self.output.read()).decode(errors="replace").splitlines() or [""]
        known = {heading: name for name, heading in _headings(self._columns).items()}
        names = [known.get(heading) for heading in header.split("\t")]
        rows = [line.split("\t") for line in lines[: self._count]]
        if set(known.values()) - set(names) or len(rows) < self._count or any(len(row) != len(names) for row in rows):
            raise OutputChangedError(f"{self.output.path} does not hold the {self._count} rows that were written")
        return [{name: cell for name, cell in zip(names, row, strict=True) if name is not None} for row in rows]


def _group(name: str) -> int:
    return next(position for position, prefix in enumerate(GROUPS) if name.startswith(prefix))


def _cell(value: float | Sequence[float]) -> str:
    """A number in full precision; several (a learning rate for each parameter group) with commas between."""
    return ",".join(map(_cell, value)) if isinstance(value, (list, tuple)) else repr(value)


def _headings(columns: Iterable[str]) -> dict[str, str]:
    """Every column's heading: upper-case, with "_" for what would break the table; no two alike."""
    headings = dict(FIXED)
    for name in columns:
        heading = base = "".join(c if c.isprintable() and c not in " /" else "_" for c in name.upper())
        number = 2
        while heading in headings.values():
            heading, number = f"{base}_{number}", number + 1
        headings[name] = heading
    return headings


def _format(headings: Mapping[str, str], rows: Iterable[Row]) -> str:
    lines = [headings.values(), *([row.get(name, "") for name in headings] for row in rows)]
    return "".join("\t".join(line) + "\n" for line in lines)
