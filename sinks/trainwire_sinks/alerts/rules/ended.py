"""The rules `failed`, `interrupted` and `finished`: a run has ended with a last event."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated

from trainwire_protocol.events import Event
from trainwire_protocol.wire import Cursor
from trainwire_sinks.alerts.alert import Severity
from trainwire_sinks.alerts.rule import Rule
from trainwire_sinks.alerts.settings import Bounds


@dataclass(kw_only=True)
class Ended(Rule):
    """A run has ended with the last event `run/<kind>`; clears when the run is resumed."""

    fields = ("reason",)

    cool_down: Annotated[float, Bounds(minimum=0)] = 0.0

    def matches(self, event: Event) -> bool:
        """Return whether the event is the last one of an attempt that ended in this way."""
        return event.type == "lifecycle" and event.name == f"run/{self.kind}"

    def observe(self, event: Event) -> None:
        """Report the end with its reason."""
        reason = event.value.get("reason") if isinstance(event.value, Mapping) else None
        self.finding = {"reason": "no reason given" if reason is None else reason}

    def resume(self, origin: Cursor, step: int) -> None:  # noqa: ARG002  # there is nothing to rewind
        """Clear: the run continues."""
        self.finding = None


@dataclass(kw_only=True)
class Failed(Ended):
    """The training ended with an exception; clears when the run is resumed."""

    kind = "failed"
    template = "{run} failed at step {step}: {reason}"

    severity: Severity = "critical"


@dataclass(kw_only=True)
class Interrupted(Ended):
    """The training was interrupted by its user or by a signal; clears when the run is resumed."""

    kind = "interrupted"
    template = "{run} was interrupted at step {step}: {reason}"


@dataclass(kw_only=True)
class Finished(Ended):
    """The training has finished; clears when the run is resumed."""

    kind = "finished"
    template = "{run} finished at step {step}"

    severity: Severity = "info"
