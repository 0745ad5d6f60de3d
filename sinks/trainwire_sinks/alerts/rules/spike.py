"""The rule `spike`: a metric suddenly leaves its usual range."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeAlias

from trainwire_protocol.events import Event
from trainwire_protocol.statistics import RobustScale
from trainwire_sinks.alerts.rule import Finding, MetricRule
from trainwire_sinks.alerts.settings import Bounds

Direction: TypeAlias = Literal["up", "down", "both"]


@dataclass(kw_only=True)
class Spike(MetricRule):
    """A value of a metric is more than `threshold` standard deviations from the median of the last `window` values.

    The standard deviation is estimated from the median absolute deviation (MAD), so that earlier spikes hardly affect
    it. This is the robust z-score of Iglewicz and Hoaglin 1993, "How to Detect and Handle Outliers", and Hampel 1974,
    "The Influence Curve and Its Role in Robust Estimation". Nothing fires before the window is full; after that, median
    and MAD are updated after every tenth of it. Values that are not finite are ignored. Clears with the next value that
    is not a spike.
    """

    kind = "spike"
    fields = ("metric", "value", "median", "score")
    template = "{metric} is {value} at step {step}: {score} standard deviations from its median of {median}"

    max_metrics = 100  # fewer than other rules, since each has a window

    threshold: Annotated[float, Bounds(above=0)] = 10.0
    window: Annotated[int, Bounds(minimum=5, maximum=10_000)] = 100
    direction: Direction = "up"

    def check(self, metric: str, value: float, event: Event) -> Finding | None:
        """Compare the value with the window, then add it to the window."""
        if not math.isfinite(value):
            return self.findings.get(metric)
        seen = self.seen.setdefault(metric, _empty_window())
        finding = self._compare(metric, value, seen)
        values = seen["values"]
        values.append([event.step, value])
        del values[: -self.window]
        seen["new"] += 1
        is_stale = seen["median"] is None or seen["new"] >= max(1, self.window // 10)
        if len(values) == self.window and is_stale:
            seen |= RobustScale.of([number for _, number in values])._asdict() | {"new": 0}
        return finding

    def rewind(self, seen: Any, step: int) -> Any:
        """Return the values up to `step`, with the median and deviation that hold until the window is full again."""
        kept = [[at, value] for at, value in seen["values"] if at <= step] if seen else []
        return {**seen, "values": kept} if kept else None

    def _compare(self, metric: str, value: float, seen: dict[str, Any]) -> Finding | None:
        if seen["median"] is None:
            return None
        scale = RobustScale(seen["median"], seen["deviation"])
        score = scale.score(value)
        if {"up": score, "down": -score, "both": abs(score)}[self.direction] <= self.threshold:
            return None
        return {"metric": metric, "value": value, "median": scale.median, "score": round(score, 1)}


def _empty_window() -> dict[str, Any]:
    return {"values": [], "new": 0, "median": None, "deviation": None}
