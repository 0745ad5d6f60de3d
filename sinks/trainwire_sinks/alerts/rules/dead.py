"""The rule `dead`: a run's process is gone or silent."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from trainwire_protocol.events import Event
from trainwire_protocol.wire import Cursor
from trainwire_sinks.alerts.alert import Severity
from trainwire_sinks.alerts.rule import Rule
from trainwire_sinks.alerts.settings import Bounds

if TYPE_CHECKING:
    from trainwire_sinks.alerts.host_probe import HostSnapshot
    from trainwire_sinks.runtime.sink import PublisherStatus


@dataclass(kw_only=True)
class Dead(Rule):
    """The training's process is gone without a last event, or has been silent for `seconds` seconds.

    A process that is gone is noticed at once only on the same host. A process is silent if it sends neither events nor
    heartbeats and does not renew its lease in the run's folder. Clears with the next sign of life, for example of a
    process that was stopped, or when the run is resumed.
    """

    kind = "dead"
    fields = ("why",)
    template = "{run} is dead at step {step}: {why}"
    is_timed = True

    severity: Severity = "critical"
    cool_down: Annotated[float, Bounds(minimum=0)] = 0.0
    seconds: Annotated[float, Bounds(minimum=1)] = 30.0

    def matches(self, event: Event) -> bool:
        """Return True for the common types: any event is a sign of life."""
        return event.type in ("scalar", "scalars", "log", "lifecycle")

    def observe(self, event: Event) -> None:  # noqa: ARG002  # its existence is enough
        """Clear: the process is alive."""
        self.finding = None

    def tick(self, status: PublisherStatus, host: HostSnapshot) -> None:  # noqa: ARG002  # only the status is needed
        """Check how long the process has been silent."""
        heartbeat = status.heartbeat
        if status.silence >= self.seconds and self.finding is None:
            occasion = f"silent-{heartbeat.fields.get('walltime')}" if heartbeat else ""
            self.finding = {"why": f"no sign of life for {self.seconds:g} s", "occasion": occasion}
        elif heartbeat and status.silence < min(self.seconds, 1.0):
            self.finding = None

    def end(self) -> None:
        """Report that the process is gone."""
        self.finding = self.finding or {"why": "its process is gone and did not report its end", "occasion": "gone"}

    def resume(self, origin: Cursor, step: int) -> None:  # noqa: ARG002  # there is nothing to rewind
        """Clear: the run continues."""
        self.finding = None
