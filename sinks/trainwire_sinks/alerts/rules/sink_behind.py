"""The rule `sink-behind`: another sink of the run does not keep up."""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Annotated

from trainwire_protocol.wire import Cursor
from trainwire_sinks.alerts.rule import Rule
from trainwire_sinks.alerts.settings import Bounds

if TYPE_CHECKING:
    from trainwire_sinks.alerts.host_probe import HostSnapshot
    from trainwire_sinks.runtime.sink import PublisherStatus


@dataclass(kw_only=True)
class SinkBehind(Rule):
    """A sink with the same output folder has not handled everything that was recorded `seconds` seconds ago.

    The sink may be slow, stopped or dead. Clears when it has caught up.
    """

    kind = "sink-behind"
    fields = ("sink", "events")
    template = "the sink {sink} of {run} is {events} events behind"
    is_timed = True

    sink: str = "*"
    seconds: Annotated[float, Bounds(above=0)] = 120.0

    def __post_init__(self) -> None:
        super().__post_init__()
        self._goals: dict[str, tuple[Cursor, float]] = {}
        """For each sink, the position that it must reach, and the time at which it reached the previous one."""

    def tick(self, status: PublisherStatus, host: HostSnapshot) -> None:
        """Check the progress of each sink."""
        if status.heartbeat is None or not host.is_known:
            return
        header = status.heartbeat.header
        head = Cursor(header.attempt, header.before.get("event", -1))
        sinks = {name: cursor for name, cursor in host.cursors.items() if fnmatchcase(name, self.sink)}
        late = [name for name, cursor in sinks.items() if self._is_late(name, cursor, head, status.now)]
        if late and self.finding is None:
            cursor = sinks[late[0]]
            events = head.seq - (cursor.seq if cursor.attempt == head.attempt else -1)
            occasion = f"{late[0]}-{cursor.attempt}-{cursor.seq}"
            self.finding = {"sink": late[0], "events": events, "occasion": occasion}
        elif not late:
            self.finding = None

    def _is_late(self, name: str, cursor: Cursor, head: Cursor, now: float) -> bool:
        goal, since = self._goals.get(name, (head, now))
        if cursor >= goal:
            goal, since = head, now
        self._goals[name] = goal, since
        return now - since >= self.seconds
