"""A run's process is gone, or silent."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from trainwire_protocol.events import Event
from trainwire_sinks.alerts.alert import Severity
from trainwire_sinks.alerts.rule import Rule
from trainwire_sinks.alerts.settings import Bounds

if TYPE_CHECKING:
    from trainwire_sinks.alerts.host_probe import HostSnapshot
    from trainwire_sinks.runtime.base import Pulse


@dataclass(kw_only=True)
class Dead(Rule):
    """The training's process is gone without a last event, or no sign of it was seen for so long.

    That it is gone is known at once on the same host alone. A sign is a heartbeat, an event, or its lease renewed in
    the run's folder. Clears when it is heard again, as one that was stopped may be, or when the run is resumed.
    """

    kind = "dead"
    fields = ("why",)
    template = "{run} is dead at step {step}: {why}"
    is_timed = True

    severity: Severity = "critical"
    cool_down: Annotated[float, Bounds(least=0)] = 0.0
    seconds: Annotated[float, Bounds(least=1)] = 30.0

    def wants(self, event: Event) -> bool:
        """Each event is a sign of life."""
        return event.type in ("scalar", "scalars", "log", "lifecycle")

    def see(self, event: Event) -> None:  # noqa: ARG002  # that it is there is enough
        """It lives."""
        self.finding = None

    def tick(self, pulse: Pulse, around: HostSnapshot) -> None:  # noqa: ARG002  # it looks at nothing beside the pulse
        """Look how long it has been silent."""
        heartbeat = pulse.heartbeat
        if pulse.silence >= self.seconds and self.finding is None:
            last = f"silent-{heartbeat.fields.get('walltime')}" if heartbeat else ""
            self.finding = {"why": f"nothing was heard of it for {self.seconds:g} s", "occasion": last}
        elif heartbeat and pulse.silence < min(self.seconds, 1.0):
            self.finding = None

    def end(self) -> None:
        """It is gone."""
        self.finding = self.finding or {"why": "its process is gone, and said nothing of its end", "occasion": "gone"}

    def resume(self, step: int) -> None:  # noqa: ARG002  # it has nothing to forget
        """The run goes on."""
        self.finding = None
