"""A view of one rank of one run, made from its batches and heartbeats. It uses neither sockets nor a terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from trainwire_protocol.events import LAST_EVENTS, Event
from trainwire_protocol.journal.attempts import resumed_from
from trainwire_protocol.journal.tail import events_of
from trainwire_protocol.transport.live import Heartbeat
from trainwire_protocol.wire import START, Batch, Cursor
from trainwire_sinks.inspect.progress import SinkProgress
from trainwire_sinks.inspect.ranks import RankOverview
from trainwire_sinks.monitor.alerts import AlertLine
from trainwire_sinks.monitor.log import Log
from trainwire_sinks.monitor.metrics import Metrics
from trainwire_sinks.monitor.training_progress import TrainingProgress

SILENT_SECONDS: Final = 5.0
"""A publisher that has sent no heartbeat for this long is called silent."""

_ENDED: Final = frozenset({"finished", "failed", "interrupted", "died"})
_LOGGED_TYPES: Final = frozenset({"log", "lifecycle", "hparams"})


class View:
    """The state of one rank of one run, in bounded memory.

    Args:
        label: distinguishes it from other views on the same screen.
    """

    def __init__(self, label: str) -> None:
        self.label = label
        self.run: str | None = None
        self.rank = 0
        self.cursor = START
        self.step = 0
        self.events = 0
        """Number of events read."""
        self.resumed = 0
        """Number of times the run was resumed."""
        self.progress = TrainingProgress()
        self.metrics = Metrics()
        self.log = Log()
        self.sinks: Sequence[SinkProgress] = ()
        self.ranks: Sequence[RankOverview] = ()
        """All ranks of the run; empty if it is watched by address."""
        self.alerts: Sequence[AlertLine] = ()
        """The last ones, the newest last."""
        self.heads: dict[int, dict[str, int]] = {}
        """For each attempt the last seq of each channel, as far as it is known."""
        self.dropped = 0
        """Number of values that the training process has dropped."""
        self.error = ""
        """The reason why the run cannot be read; empty if it can be read."""
        self.is_caught_up = False
        self._state = "waiting"
        self._reason = ""
        self._heartbeat: Heartbeat | None = None

    def add_batch(self, batch: Batch) -> None:
        """Add the next batch of the stream."""
        header, self.cursor = batch.header, batch.cursor
        self.run, self.rank = header.run, header.rank
        self.heads.setdefault(header.attempt, {}).update({**header.before, header.channel: batch.cursor.seq})
        events = events_of(batch)
        self.events += len(events)
        for event in events:
            if event.type in _LOGGED_TYPES:
                self.log.add(event)
                if event.type == "lifecycle":
                    self._add_lifecycle(event)
        # After the lifecycle events: `run/resumed` removes superseded points.
        self.metrics.add(events, batch.cursor)
        if events:
            self._advance(max(event.step for event in events), events[-1].walltime)

    def add_heartbeat(self, heartbeat: Heartbeat) -> None:
        """Add the last heartbeat; adding the same one again changes nothing."""
        if self._heartbeat and heartbeat.received == self._heartbeat.received:
            return
        self._heartbeat, self.is_caught_up = heartbeat, True
        self.heads.setdefault(heartbeat.header.attempt, {}).update(heartbeat.header.before)
        state, dropped = heartbeat.fields.get("state"), heartbeat.fields.get("dropped")
        self.dropped = dropped if isinstance(dropped, int) else self.dropped
        if state in ("running", "paused") and self._state in ("running", "paused"):
            self._state = state

    def end(self, error: str = "") -> None:
        """Record that the stream has ended, because the run is over or, with an error, because it cannot be read."""
        self.error, self.is_caught_up = error, True
        if not error and self._state not in _ENDED:
            self._state, self._reason = "died", "its process ended without a last event"

    @property
    def is_over(self) -> bool:
        """Whether the attempt has ended or died."""
        return self._state in _ENDED

    def state(self, now: float) -> str:
        """Return the state of the run, with the reason if there is one; `now` is of the monotonic clock."""
        if self._state == "waiting":
            return "waiting for the run to begin"
        if not self.is_caught_up:
            return "reading its history"
        received = self._heartbeat.received if self._heartbeat else None
        if not self.is_over and received is not None and now - received > SILENT_SECONDS:
            return f"silent for {now - received:.0f} s"
        return f"{self._state}: {self._reason}" if self._reason else self._state

    def _advance(self, step: int, walltime: float) -> None:
        self.step = max(self.step, step)  # an event may be about an earlier step
        self.progress.advance(self.step, walltime)

    def _add_lifecycle(self, event: Event) -> None:
        value: Mapping[str, Any] = event.value
        if event.name in ("run/started", "run/resumed"):
            self._begin_attempt(event)
        elif event.name == "epoch/started":
            self._advance(event.step, event.walltime)
            epoch, *numbers = (_positive_int(value.get(name)) for name in ("epoch", "max_epochs", "batches"))
            if epoch is not None:
                self.progress.begin_epoch(epoch, *numbers)
        elif event.name == "epoch/finished":
            self._advance(event.step, event.walltime)
            self.progress.end_epoch(is_complete=value.get("complete") is not False)
        elif event.name in LAST_EVENTS:
            self._state = event.name.removeprefix("run/")
            self._reason = reason if isinstance(reason := value.get("reason"), str) else ""

    def _begin_attempt(self, event: Event) -> None:
        self._state, self._reason, self._heartbeat = "running", "", None
        self.step = event.step
        self.progress.begin_attempt(event.step, event.walltime)
        origin = resumed_from(event)
        if origin is not None:
            self.resumed += 1
            self.metrics.truncate(Cursor(*origin))


def _positive_int(value: object) -> int | None:
    return value if type(value) is int and value > 0 else None
