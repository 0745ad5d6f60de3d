"""The rule `plateau`: a metric does not improve."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeAlias

from trainwire_protocol.events import Event
from trainwire_sinks.alerts.rule import Finding, MetricRule
from trainwire_sinks.alerts.settings import Bounds

Mode: TypeAlias = Literal["min", "max"]


@dataclass(kw_only=True)
class Plateau(MetricRule):
    """None of the last `evaluations` values of a metric was better than the best one before them.

    Each value counts as one evaluation. NaN is never better. Clears with the next improvement.
    """

    kind = "plateau"
    fields = ("metric", "value", "best", "best_step", "evaluations")
    template = "{metric} has not improved for {evaluations} evaluations: {value}, best {best} at step {best_step}"

    mode: Mode
    evaluations: Annotated[int, Bounds(minimum=1, maximum=10_000)] = 10
    min_delta: Annotated[float, Bounds(minimum=0)] = 0.0

    def check(self, metric: str, value: float, event: Event) -> Finding | None:
        """Compare the value with the best one."""
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

    def rewind(self, seen: Any, step: int) -> Any:
        """Return the best value and those after it, up to `step`; an empty list if the best one came later."""
        return [[at, value] for at, value in seen or () if at <= step]

    def _is_better(self, value: float, best: float) -> bool:
        gain = best - value if self.mode == "min" else value - best
        # The first value may be NaN; any number is better than NaN.
        return gain > self.min_delta or (best != best and value == value)
