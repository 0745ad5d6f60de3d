"""The metrics of one rank, each with its history, in bounded memory."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Final

from trainwire_protocol.events import Event
from trainwire_protocol.wire import Cursor
from trainwire_sinks.monitor.series import Series

MAX_METRICS: Final = 1000
"""Metrics whose history is kept; further ones are counted in `Metrics.left_out`."""

INTERESTING: Final = ("loss", "accuracy", "f1", "score", "reward", "error", "learning_rate")
"""Parts of the names of metrics that are shown before others, in this order."""


class Metrics:
    """The history of every scalar, and of every number of `scalars`, by name."""

    def __init__(self, limit: int = MAX_METRICS) -> None:
        self.series: dict[str, Series] = {}
        """In the order of their first points."""
        self.left_out = 0
        """Number of points of metrics beyond the limit."""
        self._limit = limit

    def add(self, events: Iterable[Event], position: Cursor) -> None:
        """Add the scalars of a batch that ends at `position`; other events are ignored."""
        # Points are added metric by metric, as a history may have millions of points.
        points: defaultdict[str, list[tuple[int, float]]] = defaultdict(list)
        for event in events:
            if event.type == "scalar":
                points[event.name].append((event.step, event.value))
            elif event.type == "scalars":
                parts = event.value.items() if isinstance(event.value, Mapping) else enumerate(event.value)
                for label, value in parts:
                    points[f"{event.name}/{label}"].append((event.step, value))
        for name, found in points.items():
            series = self.series.get(name)
            if series is None:
                if len(self.series) >= self._limit:
                    self.left_out += len(found)
                    continue
                series = self.series[name] = Series()
            series.add([step for step, _ in found], [value for _, value in found], position)

    def truncate(self, after: Cursor) -> None:
        """Remove what was recorded after a position."""
        for series in self.series.values():
            series.truncate(after)
        self.series = {name: series for name, series in self.series.items() if len(series)}


def most_interesting(names: Iterable[str], count: int) -> list[str]:
    """Return the metrics to show before a user has selected any: losses, then scores, each in the order given."""

    def priority(name: str) -> int:
        matching = (place for place, part in enumerate(INTERESTING) if part in name.lower())
        return next(matching, len(INTERESTING))

    return sorted(names, key=priority)[:count]
