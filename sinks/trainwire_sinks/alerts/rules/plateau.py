"""The rule `plateau`: a metric does not improve."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Final, Literal, TypeAlias

from trainwire_protocol.events import Event
from trainwire_sinks.alerts.rule import Finding, MetricRule
from trainwire_sinks.alerts.settings import Bounds

Mode: TypeAlias = Literal["min", "max"]

KEPT_BESTS: Final = 4
"""Number of best values that are kept, each with those that followed it, as the last ones may be superseded."""


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
        histories = self.seen.setdefault(metric, [])
        if not histories or self._is_better(value, histories[-1][0][1]):
            histories.append([[event.step, value]])
            del histories[:-KEPT_BESTS]
            return None
        history = histories[-1]
        history.append([event.step, value])
        del history[1 : -self.evaluations]
        if len(history) <= self.evaluations and metric not in self.findings:
            return None
        step, best = history[0]
        return {"metric": metric, "value": value, "best": best, "best_step": step, "evaluations": self.evaluations}

    def rewind(self, seen: Any, step: int) -> Any:
        """Return the values up to `step`, in lists that each begin with the best one so far."""
        kept = ([[at, value] for at, value in history if at <= step] for history in seen if history[0][0] <= step)
        return [history for history in kept if history]

    def _is_better(self, value: float, best: float) -> bool:
        gain = best - value if self.mode == "min" else value - best
        # The first value may be NaN; any number is better than NaN.
        return gain > self.min_delta or (best != best and value == value)
