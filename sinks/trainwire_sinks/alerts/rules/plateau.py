"""A metric does not improve."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeAlias

from trainwire_protocol.events import Event
from trainwire_sinks.alerts.rule import Finding, MetricRule
from trainwire_sinks.alerts.settings import Bounds

Mode: TypeAlias = Literal["min", "max"]


@dataclass(kw_only=True)
class Plateau(MetricRule):
    """So many values of a metric in a row, one for each evaluation, were not better than the best before them.

    NaN is never better. Clears with the next that is.
    """

    kind = "plateau"
    fields = ("metric", "value", "best", "best_step", "evaluations")
    template = "{metric} has not improved for {evaluations} evaluations: {value}, best {best} at step {best_step}"

    mode: Mode
    evaluations: Annotated[int, Bounds(least=1, most=10_000)] = 10
    min_delta: Annotated[float, Bounds(least=0)] = 0.0

    def judge(self, metric: str, value: float, event: Event) -> Finding | None:
        """Compare it to the best."""
        history = self.seen.get(metric) or []
        if not history or self._is_better(value, history[0][1]):
            self.seen[metric] = [[event.step, value]]
            return None
        history.append([event.step, value])
        del history[1 : -self.evaluations]
        if len(history) <= self.evaluations:
            return None
        step, best = history[0]
        return {"metric": metric, "value": value, "best": best, "best_step": step, "evaluations": self.evaluations}

    def keep(self, memory: Any, step: int) -> Any:
        """The best one and those after it, up to a step; nothing if the best one came after it."""
        return [[at, value] for at, value in memory or () if at <= step]

    def _is_better(self, value: float, best: float) -> bool:
        gain = best - value if self.mode == "min" else value - best
        # The first may have been NaN, and anything is better than that.
        return gain > self.min_delta or (best != best and value == value)
