"""The rule `disk-full`: a disk has little free space."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from trainwire_protocol.events import Event
from trainwire_sinks.alerts.alert import Severity
from trainwire_sinks.alerts.rule import Rule
from trainwire_sinks.alerts.settings import Bounds

if TYPE_CHECKING:
    from trainwire_sinks.alerts.host_probe import HostSnapshot
    from trainwire_sinks.runtime.sink import PublisherStatus

GIB = float(1 << 30)


@dataclass(kw_only=True)
class DiskFull(Rule):
    """A disk has less than `free_gib` GiB of free space, or could not store what the training recorded.

    The disk is that of `folder`, by default of the output folder of the alerts, which is the run's folder unless
    `--output` names another one. Clears when there is enough space.
    """

    kind = "disk-full"
    fields = ("free", "folder")
    template = "{free} GiB are free on the disk of {folder}"
    is_timed = True

    severity: Severity = "critical"
    free_gib: Annotated[float, Bounds(above=0)] = 1.0
    folder: str = ""

    def matches(self, event: Event) -> bool:
        """Return whether the event reports that events are missing in the journal."""
        return event.type == "lifecycle" and event.name == "journal/missing"

    def observe(self, event: Event) -> None:  # noqa: ARG002  # its existence is enough
        """Report that the journal's disk failed."""
        self.finding = self.finding or {"free": "too few", "folder": "the journal"}

    def tick(self, status: PublisherStatus, host: HostSnapshot) -> None:
        """Check the free space."""
        free = host.free.get(self.folder)
        if free is None:
            return
        if free >= self.free_gib * GIB:
            self.finding = None
        elif self.finding is None:
            folder = self.folder or host.folder
            self.finding = {"free": round(free / GIB, 3), "folder": folder, "occasion": f"{status.now:.0f}"}
