"""The rule `threshold`: a metric is above or below a value."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Final, Literal, TypeAlias

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
        count, since = self.seen.get(metric) or (0, event.walltime)
        if math.isnan(value):
            return self.findings.get(metric)
        if not _COMPARISONS[self.operator](value, self.value):
            self.seen.pop(metric, None)
            return None
        self.seen[metric] = (count + 1, since)
        if count + 1 < self.events or event.walltime - since < self.seconds:
            return None
        return {"metric": metric, "value": value, "operator": self.operator, "threshold": self.value}
