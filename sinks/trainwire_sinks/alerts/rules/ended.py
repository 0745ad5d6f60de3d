"""A run has ended by itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated

from trainwire_protocol.events import Event
from trainwire_sinks.alerts.alert import Severity
from trainwire_sinks.alerts.rule import Rule
from trainwire_sinks.alerts.settings import Bounds


@dataclass(kw_only=True)
class Ended(Rule):
    """A run has ended by itself, in one of three ways; clears when it goes on in a further attempt."""

    fields = ("reason",)

    cool_down: Annotated[float, Bounds(least=0)] = 0.0

    def wants(self, event: Event) -> bool:
        """Whether it is the last event of an attempt that ended in this way."""
        return event.type == "lifecycle" and event.name == f"run/{self.kind}"

    def see(self, event: Event) -> None:
        """Tell it."""
        reason = event.value.get("reason") if isinstance(event.value, Mapping) else None
        self.finding = {"reason": "no reason given" if reason is None else reason}

    def resume(self, step: int) -> None:  # noqa: ARG002  # it has nothing to forget
        """The run goes on."""
        self.finding = None


@dataclass(kw_only=True)
class Failed(Ended):
    """The training ended with an exception; clears when the run is resumed."""

    kind = "failed"
    template = "{run} has failed at step {step}: {reason}"

    severity: Severity = "critical"


@dataclass(kw_only=True)
class Interrupted(Ended):
    """The training was interrupted by its user or a signal; clears when the run is resumed."""

    kind = "interrupted"
    template = "{run} was interrupted at step {step}: {reason}"


@dataclass(kw_only=True)
class Finished(Ended):
    """The training has finished; clears when the run is resumed."""

    kind = "finished"
    template = "{run} has finished at step {step}"

    severity: Severity = "info"
