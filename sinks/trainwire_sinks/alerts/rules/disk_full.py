"""There is little room on a disk."""

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

GIB = float(1 << 30)


@dataclass(kw_only=True)
class DiskFull(Rule):
    """A disk has less room than so much, or did not take what the training recorded.

    It is the disk of the folder that alerts are written to, the run's own unless told otherwise, if `folder` names no
    other. Clears when there is room.
    """

    kind = "disk-full"
    fields = ("free", "folder")
    template = "{free} GiB are left on the disk of {folder}"
    is_timed = True

    severity: Severity = "critical"
    free_gib: Annotated[float, Bounds(above=0)] = 1.0
    folder: str = ""

    def wants(self, event: Event) -> bool:
        """Whether it tells that events are not in the journal."""
        return event.type == "lifecycle" and event.name == "journal/missing"

    def see(self, event: Event) -> None:  # noqa: ARG002  # that it is there is enough
        """The journal's disk has failed."""
        self.finding = self.finding or {"free": "too few", "folder": "the journal"}

    def tick(self, pulse: Pulse, around: HostSnapshot) -> None:
        """Look how much room there is."""
        free = around.free.get(self.folder)
        if free is None:
            return
        if free >= self.free_gib * GIB:
            self.finding = None
        elif self.finding is None:
            folder = self.folder or around.folder
            self.finding = {"free": round(free / GIB, 3), "folder": folder, "occasion": f"{pulse.now:.0f}"}
