"""Puts events and the passing of time before rules, and makes alerts of what they find."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import chain
from typing import Any, Final

from trainwire_protocol.events import LAST_EVENTS, Event
from trainwire_protocol.wire import Batch
from trainwire_sinks.alerts.alert import Alert, Place, cut, render
from trainwire_sinks.alerts.host_probe import HostSnapshot
from trainwire_sinks.alerts.rule import ALL, Finding, Rule
from trainwire_sinks.runtime.base import Pulse, State

MAX_KNOWN_NAMES: Final = 10_000
"""Names of events of which is remembered which rules want them."""


@dataclass
class Watch:
    """A rule, and how it stands."""

    name: str
    rule: Rule
    notifiers: tuple[str, ...]
    alert: Alert | None = None
    """The alert that has fired and has not cleared."""
    fired: float | None = None
    """When the last one has, in seconds since the epoch."""

    @property
    def is_unsettled(self) -> bool:
        """Whether the rule has found something that was not told, or finds no longer what was."""
        return (self.rule.finding is None) != (self.alert is None)


class Engine:
    """Fires each rule's alert once when there is something to tell, and reports when it has cleared.

    Args:
        rules: by their names.
        notifiers: those that are told by a rule which tells all.
    """

    def __init__(self, rules: Mapping[str, Rule], notifiers: Sequence[str]) -> None:
        self._watches = [Watch(name, rule, _told(rule, notifiers)) for name, rule in rules.items()]
        self._wanted: dict[tuple[str, str], list[Watch]] = {}
        self._place: Place | None = None
        self._is_over = False
        """Whether the attempt has ended, by itself or not."""

    @property
    def run(self) -> str | None:
        """The run that the events are of; None before the first."""
        return self._place.run if self._place else None

    def handle(self, batch: Batch, events: Sequence[Event]) -> Iterator[Alert]:
        """Look at a batch's events; the alerts that they make fire or clear."""
        header = batch.header
        yield from self._begin_attempt(batch, events)
        for seq, event in enumerate(events, header.seq):
            for watch in self._watches_of(event):
                watch.rule.see(event)
                if watch.is_unsettled:
                    self._move(batch, seq, event)
                    yield from self._settle(watch)
        if events:
            self._move(batch, header.seq + len(events) - 1, events[-1])

    def tick(self, pulse: Pulse, around: HostSnapshot) -> Iterator[Alert]:
        """Look at what is known now; the alerts that it makes fire or clear."""
        if self._place is None or self._is_over:
            return
        if pulse.is_over:
            yield from self._end(_last_sign(pulse, self._place))
            return
        for watch in self._watches:
            # What other rules find follows from the events alone, and when they tell it too.
            if watch.rule.is_timed:
                watch.rule.tick(pulse, around)
                yield from self._settle(watch, pulse.now)

    def state(self) -> State:
        """What it has to know to go on."""
        return {
            "place": self._place and asdict(self._place),
            "is_over": self._is_over,
            "rules": {watch.name: _state_of(watch) for watch in self._watches},
        }

    def restore(self, state: State) -> None:
        """Take up what `state` returned; a rule whose kind or settings are others now begins to look anew."""
        if not state:
            return
        self._place = Place(**state["place"]) if state["place"] else None
        self._is_over = state["is_over"]
        for watch in self._watches:
            known = state["rules"].get(watch.name)
            if known:
                watch.alert = Alert.from_fields(known["alert"]) if known["alert"] else None
                watch.fired = known["fired"]
                if known["settings"] == _settings_of(watch.rule):
                    watch.rule.restore(known["state"])

    def _watches_of(self, event: Event) -> list[Watch]:
        key = (event.type, event.name)
        watches = self._wanted.get(key)
        if watches is None:
            if len(self._wanted) >= MAX_KNOWN_NAMES:
                self._wanted.clear()
            watches = self._wanted[key] = [watch for watch in self._watches if watch.rule.wants(event)]
        return watches

    def _move(self, batch: Batch, seq: int, event: Event) -> None:
        header = batch.header
        self._place = Place(header.run, header.rank, header.attempt, seq, event.walltime, event.step)
        self._is_over = event.name in LAST_EVENTS

    def _begin_attempt(self, batch: Batch, events: Sequence[Event]) -> Iterator[Alert]:
        """If a further attempt begins, end the one before, and let the rules forget what is superseded."""
        if self._place is None or batch.header.attempt == self._place.attempt or not events:
            return
        yield from self._end()
        first = events[0]
        step = first.value.get("from_step") if isinstance(first.value, Mapping) else None
        self._move(batch, batch.header.seq, first)
        for watch in self._watches:
            watch.rule.resume(step if isinstance(step, int) else -1)
            yield from self._settle(watch)

    def _end(self, now: float | None = None) -> Iterator[Alert]:
        """The attempt is over: tell the rules, unless it has said so itself."""
        if not self._is_over:
            self._is_over = True
            for watch in self._watches:
                watch.rule.end()
                yield from self._settle(watch, now)

    def _settle(self, watch: Watch, now: float | None = None) -> Iterator[Alert]:
        """Fire or clear, if what the rule has found says so."""
        finding, place = watch.rule.finding, self._place
        if not watch.is_unsettled or place is None:
            return
        walltime = place.walltime if now is None else now
        if watch.alert is not None:
            yield watch.alert.cleared(walltime, place.step)
            watch.alert = None
        elif finding is not None and not _is_cooling(watch, walltime):
            watch.alert, watch.fired = _fire(watch, finding, place, walltime), walltime
            yield watch.alert


def _told(rule: Rule, all_of_them: Sequence[str]) -> tuple[str, ...]:
    names = [[name] if name != ALL else all_of_them for name in rule.notifiers]
    return tuple(dict.fromkeys(chain.from_iterable(names)))


def _last_sign(pulse: Pulse, place: Place) -> float:
    """When the publisher was last heard of, by its own clock."""
    heard = pulse.heartbeat.fields.get("walltime") if pulse.heartbeat else None
    return max(place.walltime, heard) if isinstance(heard, (int, float)) else place.walltime


def _is_cooling(watch: Watch, walltime: float) -> bool:
    return watch.fired is not None and 0 <= walltime - watch.fired < watch.rule.cool_down


def _fire(watch: Watch, finding: Finding, place: Place, walltime: float) -> Alert:
    rule = watch.rule
    details = {name: cut(value) if isinstance(value := finding[name], str) else value for name in rule.fields}
    about = {
        "rule": watch.name, "severity": rule.severity, "run": place.run, "rank": place.rank, "step": place.step,
    }  # fmt: skip
    occasion = finding.get("occasion") or place.seq
    return Alert(
        id=f"{place.run}/{place.rank}/{place.attempt}/{watch.name}/{occasion}",
        state="fired",
        rule=watch.name,
        kind=rule.kind,
        severity=rule.severity,
        message=render(rule.message or rule.template, {**about, **details}, walltime),
        walltime=walltime,
        fired_walltime=walltime,
        step=place.step,
        run=place.run,
        rank=place.rank,
        attempt=place.attempt,
        details=details,
        notifiers=watch.notifiers,
    )


def _state_of(watch: Watch) -> dict[str, Any]:
    return {
        "settings": _settings_of(watch.rule),
        "state": watch.rule.state(),
        "alert": watch.alert and asdict(watch.alert),
        "fired": watch.fired,
    }


def _settings_of(rule: Rule) -> str:
    """What of a rule decides what it finds; how and whom it tells may change."""
    return repr((rule.kind, {name: value for name, value in asdict(rule).items() if name not in _TELLING}))


_TELLING: Final = ("severity", "cool_down", "message", "notifiers")
