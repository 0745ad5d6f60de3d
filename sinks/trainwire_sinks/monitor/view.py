"""What is known of one rank of one run: batches and heartbeats go in, its state comes out. No sockets, no terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from trainwire_protocol.events import LAST_EVENTS, Event
from trainwire_protocol.journal.attempts import resumed_from
from trainwire_protocol.journal.tail import events_of
from trainwire_protocol.transport.live import Heartbeat
from trainwire_protocol.wire import START, Batch, Cursor
from trainwire_sinks.inspect.progress import Progress
from trainwire_sinks.inspect.ranks import RankOverview
from trainwire_sinks.monitor.alerts import Alert
from trainwire_sinks.monitor.log import Log
from trainwire_sinks.monitor.metrics import Metrics
from trainwire_sinks.monitor.pace import Pace

SILENT_SECONDS: Final = 5.0
"""A publisher that sends no heartbeat for so long is called silent."""


class View:
    """One rank of one run, in memory that does not grow with the run.

    Args:
        label: what tells it from others that are shown beside it.
    """

    def __init__(self, label: str) -> None:
        self.label = label
        self.run: str | None = None
        self.rank = 0
        self.cursor = START
        self.step = 0
        self.events = 0
        """How many were read."""
        self.resumed = 0
        """How often the run was resumed."""
        self.pace = Pace()
        self.metrics = Metrics()
        self.log = Log()
        self.sinks: Sequence[Progress] = ()
        self.ranks: Sequence[RankOverview] = ()
        """All that the run has, as far as its folder tells."""
        self.alerts: Sequence[Alert] = ()
        """The last ones, the newest last."""
        self.heads: dict[int, dict[str, int]] = {}
        """For each attempt the last seq of each channel, as far as is known."""
        self.dropped = 0
        """Values that the training process had to drop."""
        self.word = ""
        """What is wrong with reading it; empty if nothing is."""
        self.is_caught_up = False
        self._state = "waiting"
        self._reason = ""
        self._heartbeat: Heartbeat | None = None

    def take(self, batch: Batch) -> None:
        """Take the next batch of the stream."""
        header, self.cursor = batch.header, batch.cursor
        self.run, self.rank = header.run, header.rank
        self.heads.setdefault(header.attempt, {}).update({**header.before, header.channel: batch.cursor.seq})
        events = events_of(batch)
        self.events += len(events)
        for event in events:
            if event.type in _TOLD:
                self.log.add(event)
                if event.type == "lifecycle":
                    self._happened(event)
        # Behind what happened: a batch that begins with the run's resumption goes on with what came after it.
        self.metrics.add(events, batch.cursor)
        if events:
            self._advance(events[-1])

    def hear(self, heartbeat: Heartbeat) -> None:
        """Take the last heartbeat; one that was taken already changes nothing."""
        if self._heartbeat and heartbeat.received == self._heartbeat.received:
            return
        self._heartbeat, self.is_caught_up = heartbeat, True
        self.heads.setdefault(heartbeat.header.attempt, {}).update(heartbeat.header.before)
        state, dropped = heartbeat.fields.get("state"), heartbeat.fields.get("dropped")
        self.dropped = dropped if isinstance(dropped, int) else self.dropped
        if state in ("running", "paused") and self._state in ("running", "paused"):
            self._state = state

    def end(self, word: str = "") -> None:
        """Nothing more comes, as the run is over or cannot be read."""
        self.word, self.is_caught_up = word, True
        if not word and self._state not in _ENDED:
            self._state, self._reason = "died", "its process ended without a last event"

    @property
    def is_over(self) -> bool:
        """Whether the attempt has ended, by itself or not."""
        return self._state in _ENDED

    def state(self, now: float) -> str:
        """How the run is, in a word, with the reason if there is one; `now` is of the monotonic clock."""
        if self._state == "waiting":
            return "waiting for the run to begin"
        if not self.is_caught_up:
            return "reading its history"
        heard = self._heartbeat.received if self._heartbeat else None
        if not self.is_over and heard is not None and now - heard > SILENT_SECONDS:
            return f"silent for {now - heard:.0f} s"
        return f"{self._state}: {self._reason}" if self._reason else self._state

    def _advance(self, event: Event) -> None:
        self.step = event.step
        self.pace.advance(event.step, event.walltime)

    def _happened(self, event: Event) -> None:
        value: Mapping[str, Any] = event.value
        if event.name in ("run/started", "run/resumed"):
            self._begin(event)
        elif event.name == "epoch/started":
            self._advance(event)
            epoch, *numbers = (_count(value.get(name)) for name in ("epoch", "max_epochs", "batches"))
            if epoch is not None:
                self.pace.begin_epoch(epoch, *numbers)
        elif event.name == "epoch/finished":
            self._advance(event)
            self.pace.end_epoch(is_complete=value.get("complete") is not False)
        elif event.name in LAST_EVENTS:
            self._state = event.name.removeprefix("run/")
            self._reason = reason if isinstance(reason := value.get("reason"), str) else ""

    def _begin(self, event: Event) -> None:
        self._state, self._reason, self._heartbeat = "running", "", None
        self.pace.begin(event.step, event.walltime)
        origin = resumed_from(event)
        if origin is not None:
            self.resumed += 1
            self.metrics.cut(Cursor(*origin))


_ENDED: Final = frozenset({"finished", "failed", "interrupted", "died"})
_TOLD: Final = frozenset({"log", "lifecycle", "hparams"})


def _count(value: object) -> int | None:
    return value if type(value) is int and value > 0 else None
