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
    """A metric is further from its median than so many standard deviations, over a window of its last values.

    The standard deviation is estimated from the median absolute deviation (MAD), so that spikes in the window hardly
    matter: the robust z-score, (value - median) / (1.4826 MAD), of Iglewicz and Hoaglin 1993, "How to Detect and Handle
    Outliers", and Hampel 1974, "The Influence Curve and Its Role in Robust Estimation". There is none before the window
    is full; then both are estimated anew after every tenth of it. Values that are not finite are passed over. Clears
    with the next value that is none.
    """

    kind = "spike"
    fields = ("metric", "value", "median", "score")
    template = "{metric} is {value} at step {step}: {score} standard deviations from its median of {median}"

    max_metrics = 100  # it remembers more of each

    threshold: Annotated[float, Bounds(above=0)] = 10.0
    window: Annotated[int, Bounds(minimum=5, maximum=10_000)] = 100
    direction: Direction = "up"

    def check(self, metric: str, value: float, event: Event) -> Finding | None:
        """Compare the value with the window, and add it to the window."""
        if not math.isfinite(value):
            return self.findings.get(metric)
        memory = self.seen.get(metric) or _begun()
        finding = self._compare(metric, value, memory)
        self._remember(memory, value, event.step)
        self.seen[metric] = memory
        return finding

    def rewind(self, seen: Any, step: int) -> Any:
        """Return the values up to `step`."""
        kept = [[at, value] for at, value in seen["values"] if at <= step] if seen else []
        return _begun() | {"values": kept} if kept else None

    def _compare(self, metric: str, value: float, memory: dict[str, Any]) -> Finding | None:
        if memory["median"] is None:
            return None
        scale = RobustScale(memory["median"], memory["deviation"])
        score = scale.score(value)
        if {"up": score, "down": -score, "both": abs(score)}[self.direction] <= self.threshold:
            return None
        return {"metric": metric, "value": value, "median": scale.median, "score": round(score, 1)}

    def _remember(self, memory: dict[str, Any], value: float, step: int) -> None:
        values = memory["values"]
        values.append([step, value])
        del values[: -self.window]
        memory["new"] += 1
        is_stale = memory["median"] is None or memory["new"] >= max(1, self.window // 10)
        if len(values) == self.window and is_stale:
            memory |= RobustScale.of([number for _, number in values])._asdict() | {"new": 0}


def _begun() -> dict[str, Any]:
    return {"values": [], "new": 0, "median": None, "deviation": None}
