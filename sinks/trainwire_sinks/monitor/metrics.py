"""The metrics of one rank, each with its history, in bounded memory."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

from trainwire_protocol.events import Event
from trainwire_protocol.wire import Cursor
from trainwire_sinks.monitor.series import Series

MAX_METRICS: Final = 1000
"""Metrics whose history is kept; those that appear later are left out, with a word."""


class Metrics:
    """Every scalar and part of `scalars`, by its name as it was recorded."""

    def __init__(self, limit: int = MAX_METRICS) -> None:
        self.series: dict[str, Series] = {}
        """In the order in which they appeared."""
        self.left_out = 0
        """Points of metrics for which there was no room."""
        self._limit = limit

    def add(self, events: Iterable[Event], position: Cursor) -> None:
        """Take the events of types `scalar` and `scalars` of a batch that ends at `position`."""
        # By the metric and not by the point: history comes in millions.
        points: defaultdict[str, list[tuple[int, float]]] = defaultdict(list)
        for event in events:
            if event.type == "scalar":
                points[event.name].append((event.step, event.value))
            elif event.type == "scalars":
                for label, value in _parts(event.value):
                    points[f"{event.name}/{label}"].append((event.step, value))
        for name, found in points.items():
            self._add(name, found, position)

    def cut(self, after: Cursor) -> None:
        """Take out what was recorded after a position."""
        for series in self.series.values():
            series.cut(after)
        self.series = {name: series for name, series in self.series.items() if len(series)}

    def _add(self, name: str, points: Sequence[tuple[int, float]], position: Cursor) -> None:
        series = self.series.get(name)
        if series is None:
            if len(self.series) >= self._limit:
                self.left_out += len(points)
                return
            series = self.series[name] = Series()
        series.add([step for step, _ in points], [value for _, value in points], position)


def most_interesting(names: Iterable[str], count: int) -> list[str]:
    """The metrics that a person probably wants to see first: losses, then scores, in the order given."""
    return sorted(names, key=_interest)[:count]


def _interest(name: str) -> int:
    words: Iterator[int] = (place for place, word in enumerate(_WORDS) if word in name.lower())
    return next(words, len(_WORDS))


_WORDS: Final = ("loss", "accuracy", "f1", "score", "reward", "error", "learning_rate")


def _parts(value: Any) -> Iterable[tuple[object, float]]:
    return value.items() if isinstance(value, Mapping) else enumerate(value)
