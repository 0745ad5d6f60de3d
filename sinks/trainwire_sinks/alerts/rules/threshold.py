"""The rule `threshold`: a metric is above or below a value."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, Final, Literal, TypeAlias

from trainwire_protocol.events import Event
from trainwire_sinks.alerts.rule import Finding, MetricRule
from trainwire_sinks.alerts.settings import Bounds

Operator: TypeAlias = Literal[">", ">=", "<", "<=", "==", "!="]

_COMPARISONS: Final[dict[str, Callable[[float, float], bool]]] = {
    ">": operator.gt, ">=": operator.ge, "<": operator.lt, "<=": operator.le, "==": operator.eq, "!=": operator.ne,
}  # fmt: skip


@dataclass(kw_only=True)
class Threshold(MetricRule):
    """The comparison of a metric with a value holds for `events` values in a row and for `seconds` seconds.

    NaN is ignored. Clears with the first value for which the comparison does not hold.
    """

    kind = "threshold"
    fields = ("metric", "value", "operator", "threshold")
    template = "{metric} is {value}, {operator} {threshold}, at step {step}"

    operator: Operator
    value: float
    events: Annotated[int, Bounds(minimum=1)] = 1
    seconds: Annotated[float, Bounds(minimum=0)] = 0.0

    def check(self, metric: str, value: float, event: Event) -> Finding | None:
        """Compare the value, and count how many in a row satisfy the comparison."""
        if math.isnan(value):
            return self.findings.get(metric)
        since, steps, broken = self.seen.get(metric) or (event.walltime, [], None)
        if not _COMPARISONS[self.operator](value, self.value):
            if steps and broken is None:
                self.seen[metric] = (since, steps, event.step)
            return None
        if broken is not None:
            since, steps = event.walltime, []
        self.seen[metric] = (since, [*steps, event.step][: self.events], None)
        is_long = len(steps) + 1 >= self.events and event.walltime - since >= self.seconds
        if not is_long and metric not in self.findings:
            return None
        return {"metric": metric, "value": value, "operator": self.operator, "threshold": self.value}

    def rewind(self, seen: Any, step: int) -> Any:
        """Return since when the comparison held, the first steps at which it did, and the step at which it ended."""
        since, steps, broken = seen
        kept = [at for at in steps if at <= step]
        return (since, kept, broken if broken is not None and broken <= step else None) if kept else None
