"""A metric is beyond a value."""

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
    """A metric compares to a value, in so many of its events in a row and for so long; NaN is passed over.

    Clears with the first value that does not.
    """

    kind = "threshold"
    fields = ("metric", "value", "operator", "threshold")
    template = "{metric} is {value}, {operator} {threshold}, at step {step}"

    operator: Operator
    value: float
    events: Annotated[int, Bounds(least=1)] = 1
    seconds: Annotated[float, Bounds(least=0)] = 0.0

    def judge(self, metric: str, value: float, event: Event) -> Finding | None:
        """Compare it, and count."""
        count, since = self.seen.get(metric) or (0, event.walltime)
        if math.isnan(value):
            return self.wrong.get(metric)
        if not _COMPARISONS[self.operator](value, self.value):
            self.seen.pop(metric, None)
            return None
        self.seen[metric] = (count + 1, since)
        if count + 1 < self.events or event.walltime - since < self.seconds:
            return None
        return {"metric": metric, "value": value, "operator": self.operator, "threshold": self.value}
