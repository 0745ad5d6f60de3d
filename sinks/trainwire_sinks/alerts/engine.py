"""The engine: passes events and the publisher's status to the rules, and turns their findings into alerts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import chain
from typing import Any, Final

from trainwire_protocol.events import HIGHEST_STEP, LAST_EVENTS, LOWEST_STEP, Event
from trainwire_protocol.journal.attempts import NOTHING, resumed_from
from trainwire_protocol.wire import START, Batch, Cursor
from trainwire_sinks.alerts.alert import Alert, Position, render, truncate
from trainwire_sinks.alerts.host_probe import HostSnapshot
from trainwire_sinks.alerts.rule import ALL, Finding, Rule
from trainwire_sinks.runtime.sink import PublisherStatus, State

MAX_KNOWN_NAMES: Final = 10_000
"""Maximum number of event names for which the matching rules are cached."""

_NOTIFICATION_SETTINGS: Final = ("severity", "cool_down", "message", "notifiers")
"""Settings that do not influence what a rule finds; they may change between two starts."""


@dataclass
class RuleStatus:
    """A rule with its alert."""

    name: str
    rule: Rule
    notifiers: tuple[str, ...]
    alert: Alert | None = None
    """The alert that has fired and has not cleared."""
    fired: float | None = None
    """When the last alert fired, in seconds since the epoch; None if its cause was superseded."""
    fired_at: Cursor = START
    """Position at which it fired."""

    @property
    def is_pending(self) -> bool:
        """Whether an alert must fire or clear, as the finding has changed since the last one."""
        return (self.rule.finding is None) != (self.alert is None)

    @property
    def settings(self) -> str:
        """The settings that decide what the rule finds; its state is restored only if they are the same."""
        decisive = {name: value for name, value in asdict(self.rule).items() if name not in _NOTIFICATION_SETTINGS}
        return repr((self.rule.kind, decisive))

    def is_cooling_down(self, walltime: float) -> bool:
        """Return whether the last alert fired less than `cool_down` seconds ago."""
        return self.fired is not None and 0 <= walltime - self.fired < self.rule.cool_down

    def fire(self, finding: Finding, position: Position, walltime: float) -> Alert:
        """Fire an alert about a finding."""
        rule = self.rule
        details = {name: truncate(value) if isinstance(value := finding[name], str) else value for name in rule.fields}
        common = {
            "rule": self.name, "severity": rule.severity, "run": position.run, "rank": position.rank,
            "step": position.step,
        }  # fmt: skip
        occasion = finding.get("occasion") or position.seq
        self.fired, self.fired_at = walltime, Cursor(position.attempt, position.seq)
        self.alert = Alert(
            id=f"{position.run}/{position.rank}/{position.attempt}/{self.name}/{occasion}",
            state="fired",
            rule=self.name,
            kind=rule.kind,
            severity=rule.severity,
            message=render(rule.message or rule.template, {**common, **details}, walltime),
            walltime=walltime,
            fired_walltime=walltime,
            step=position.step,
            run=position.run,
            rank=position.rank,
            attempt=position.attempt,
            details=details,
            notifiers=self.notifiers,
        )
        return self.alert

    def resume(self, origin: Cursor, step: int) -> None:
        """Handle the start of a new attempt; the cool-down of an alert that is superseded ends."""
        self.rule.resume(origin, step)
        if self.fired_at > origin:
            self.fired = None

    def state(self) -> dict[str, Any]:
        """Return the state that `restore` needs."""
        alert = self.alert and asdict(self.alert)
        fired = {"fired": self.fired, "fired_at": list(self.fired_at)}
        return {"settings": self.settings, "state": self.rule.state(), "alert": alert, **fired}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Restore the alert, and the rule unless its kind or settings have changed."""
        self.alert = Alert.from_fields(state["alert"]) if state["alert"] else None
        self.fired, self.fired_at = state["fired"], Cursor(*state["fired_at"])
        if state["settings"] == self.settings:
            self.rule.restore(state["state"])


class Engine:
    """Fires the alert of a rule once when it has a finding, and clears it once when the finding is gone.

    Args:
        rules: the rules, by name.
        all_notifiers: the notifiers of a rule that notifies all.
    """

    def __init__(self, rules: Mapping[str, Rule], all_notifiers: Sequence[str]) -> None:
        self._rules: list[RuleStatus] = []
        for name, rule in rules.items():
            named = ([notifier] if notifier != ALL else all_notifiers for notifier in rule.notifiers)
            self._rules.append(RuleStatus(name, rule, tuple(dict.fromkeys(chain.from_iterable(named)))))
        self._matching: dict[tuple[str, str], list[RuleStatus]] = {}
        self._position: Position | None = None
        self._is_over = False
        """Whether the attempt has ended, with a last event or without."""

    @property
    def run(self) -> str | None:
        """The run whose events are handled; None before the first event."""
        return self._position.run if self._position else None

    def handle(self, batch: Batch, events: Sequence[Event]) -> Iterator[Alert]:
        """Pass the events of a batch to the rules; yield the alerts that fire or clear."""
        yield from self._begin_attempt(batch, events)
        for seq, event in enumerate(events, batch.header.seq):
            for status in self._rules_matching(event):
                status.rule.position = Cursor(batch.header.attempt, seq)
                status.rule.observe(event)
                if status.is_pending:
                    self._advance(batch, seq, event)
                    yield from self._update(status)
        if events:
            self._advance(batch, batch.header.seq + len(events) - 1, events[-1])

    def tick(self, publisher: PublisherStatus, host: HostSnapshot) -> Iterator[Alert]:
        """Pass the present state to the timed rules; yield the alerts that fire or clear."""
        if self._position is None or self._is_over:
            return
        if publisher.is_over:
            heard = publisher.heartbeat.fields.get("walltime") if publisher.heartbeat else None
            walltime = self._position.walltime
            yield from self._end(max(walltime, heard) if isinstance(heard, (int, float)) else walltime)
            return
        for status in self._rules:
            # Alerts of other rules depend on the events alone, including their time.
            if status.rule.is_timed:
                status.rule.tick(publisher, host)
                yield from self._update(status, publisher.now)

    def state(self) -> State:
        """Return the state that `restore` needs."""
        return {
            "place": self._position and asdict(self._position),
            "is_over": self._is_over,
            "rules": {status.name: status.state() for status in self._rules},
        }

    def restore(self, state: State) -> None:
        """Restore the state that `state` returned; an empty one changes nothing."""
        if not state:
            return
        self._position = Position(**state["place"]) if state["place"] else None
        self._is_over = state["is_over"]
        for status in self._rules:
            if known := state["rules"].get(status.name):
                status.restore(known)

    def _rules_matching(self, event: Event) -> list[RuleStatus]:
        key = (event.type, event.name)
        matching = self._matching.get(key)
        if matching is None:
            if len(self._matching) >= MAX_KNOWN_NAMES:
                self._matching.clear()
            matching = self._matching[key] = [status for status in self._rules if status.rule.matches(event)]
        return matching

    def _advance(self, batch: Batch, seq: int, event: Event) -> None:
        header = batch.header
        self._position = Position(header.run, header.rank, header.attempt, seq, event.walltime, event.step)
        self._is_over = event.name in LAST_EVENTS

    def _begin_attempt(self, batch: Batch, events: Sequence[Event]) -> Iterator[Alert]:
        """If a new attempt begins, end the previous one and resume the rules."""
        if self._position is None or batch.header.attempt == self._position.attempt or not events:
            return
        yield from self._end()
        last, first = Cursor(self._position.attempt, self._position.seq), events[0]
        origin = resumed_from(first) or last
        step = first.value.get("from_step") if isinstance(first.value, Mapping) else None
        if origin >= last:  # nothing is superseded
            step = HIGHEST_STEP
        elif origin == NOTHING or not isinstance(step, int):
            step = LOWEST_STEP
        self._advance(batch, batch.header.seq, first)
        for status in self._rules:
            status.resume(origin, step)
            yield from self._update(status)

    def _end(self, now: float | None = None) -> Iterator[Alert]:
        """End the attempt, unless it had a last event."""
        if not self._is_over:
            self._is_over = True
            for status in self._rules:
                status.rule.end()
                yield from self._update(status, now)

    def _update(self, status: RuleStatus, now: float | None = None) -> Iterator[Alert]:
        """Fire or clear a rule's alert if it is pending; `now` is by default the time of the last event."""
        finding, position = status.rule.finding, self._position
        if not status.is_pending or position is None:
            return
        walltime = position.walltime if now is None else now
        if status.alert is not None:
            yield status.alert.cleared(walltime, position.step)
            status.alert = None
        elif finding is not None and not status.is_cooling_down(walltime):
            yield status.fire(finding, position, walltime)
