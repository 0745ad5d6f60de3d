"""A metric is NaN or infinite."""

from __future__ import annotations

import math
from dataclasses import dataclass

from trainwire_protocol.events import Event
from trainwire_sinks.alerts.rule import Finding, MetricRule


@dataclass(kw_only=True)
class NotFinite(MetricRule):
    """A metric is NaN or infinite; clears when its next value is a number, for each metric that was."""

    kind = "not-finite"
    fields = ("metric", "value")
    template = "{metric} is {value} at step {step}"

    metric: str = "*"

    def judge(self, metric: str, value: float, event: Event) -> Finding | None:  # noqa: ARG002  # the step is the alert's
        """Whether it is a number."""
        return None if math.isfinite(value) else {"metric": metric, "value": value}
