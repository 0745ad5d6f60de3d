"""The rule `not-finite`: a metric is NaN or infinite."""

from __future__ import annotations

import math
from dataclasses import dataclass

from trainwire_protocol.events import Event
from trainwire_sinks.alerts.rule import Finding, MetricRule


@dataclass(kw_only=True)
class NotFinite(MetricRule):
    """A metric is NaN or infinite; clears when the next value of each such metric is finite."""

    kind = "not-finite"
    fields = ("metric", "value")
    template = "{metric} is {value} at step {step}"

    metric: str = "*"

    def check(self, metric: str, value: float, event: Event) -> Finding | None:  # noqa: ARG002  # the alert has the step
        """Return a finding unless the value is finite."""
        return None if math.isfinite(value) else {"metric": metric, "value": value}
