"""The base classes of rules: a rule observes events and the passing of time, and reports a finding or none."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Final, TypeAlias

from trainwire_protocol.events import Event
from trainwire_protocol.wire import START, Cursor
from trainwire_sinks.alerts.alert import Severity
from trainwire_sinks.alerts.settings import Bounds
from trainwire_sinks.runtime.sink import State

if TYPE_CHECKING:
    from trainwire_sinks.alerts.host_probe import HostSnapshot
    from trainwire_sinks.runtime.sink import PublisherStatus

Finding: TypeAlias = Mapping[str, Any]
"""The finding of a rule: a JSON value for each of the rule's `fields`, and optionally an `occasion`."""

ALL: Final = "*"
"""Stands for all notifiers of the file in a rule's `notifiers`."""

MAX_METRIC_CHARACTERS: Final = 1024
"""Numbers of `scalars` whose metric has a longer name are ignored."""


@dataclass(kw_only=True)
class Rule:
    """A rule of a rules file. Its settings are the fields of the dataclass; other attributes hold its state.

    `finding` is what the rule reports now, or None. The engine reads it after each call of the methods below. The
    `occasion` in a finding distinguishes it from other findings of the same rule; without one, the position of the
    last event does.
    """

    kind: ClassVar[str]
    """The kind's name in the rules file."""
    fields: ClassVar[tuple[str, ...]] = ()
    """Fields that its message can use, besides the common ones."""
    template: ClassVar[str]
    """The default message."""
    is_timed: ClassVar[bool] = False
    """Whether `tick` is called."""

    severity: Severity = "warning"
    cool_down: Annotated[float, Bounds(minimum=0)] = 300.0
    message: str = ""
    notifiers: tuple[str, ...] = (ALL,)

    def __post_init__(self) -> None:
        self.finding: Finding | None = None
        self.position = START
        """Position of the event that is observed; set by the engine."""

    def matches(self, event: Event) -> bool:  # noqa: ARG002  # used by subclasses
        """Return whether the rule observes events of this type and name."""
        return False

    def observe(self, event: Event) -> None:
        """Observe an event that matches."""

    def tick(self, status: PublisherStatus, host: HostSnapshot) -> None:
        """Check the present state while the run continues."""

    def end(self) -> None:
        """Handle the end of an attempt that has no last event."""

    def resume(self, origin: Cursor, step: int) -> None:
        """Handle the start of a new attempt, which supersedes what was recorded after a position and its step."""

    def state(self) -> State:
        """Return the state that `restore` needs."""
        return {"finding": self.finding}

    def restore(self, state: State) -> None:
        """Restore the state that `state` returned."""
        self.finding = state["finding"]


@dataclass(kw_only=True)
class MetricRule(Rule):
    """A rule on metrics. It reports the first metric with a finding, and clears when no metric has one."""

    max_metrics: ClassVar[int] = 1000
    """Maximum number of metrics that the rule keeps state for; further ones are ignored."""

    metric: str

    def __post_init__(self) -> None:
        super().__post_init__()
        self.seen: dict[str, Any] = {}
        """The state of each metric."""
        self.findings: dict[str, Finding] = {}
        """The findings, by metric."""
        self.began: dict[str, Cursor] = {}
        """For each finding, the position of the event with which it began."""

    def matches(self, event: Event) -> bool:
        """Return whether the event may contain a value of one of the metrics."""
        return event.type == "scalars" or (event.type == "scalar" and fnmatchcase(event.name, self.metric))

    def observe(self, event: Event) -> None:
        """Check each value of the event."""
        for metric, value in measurements(event):
            if not fnmatchcase(metric, self.metric) or not self._has_room(metric):
                continue
            finding = self.check(metric, value, event)
            if finding is None:
                self.findings.pop(metric, None)
                self.began.pop(metric, None)
            else:
                self.findings[metric] = finding
                self.began.setdefault(metric, self.position)
        self.finding = next(iter(self.findings.values()), None)

    def check(self, metric: str, value: float, event: Event) -> Finding | None:
        """Return what is wrong with a value of a metric, or None. `seen[metric]` may be used to keep state."""
        raise NotImplementedError

    def resume(self, origin: Cursor, step: int) -> None:
        """Discard what is superseded. A finding that began before holds until a value shows that it is gone."""
        self.seen = {metric: kept for metric, seen in self.seen.items() if (kept := self.rewind(seen, step))}
        self.began = {metric: position for metric, position in self.began.items() if position <= origin}
        self.findings = {metric: found for metric, found in self.findings.items() if metric in self.began}
        self.finding = next(iter(self.findings.values()), None)

    def rewind(self, seen: Any, step: int) -> Any:  # noqa: ARG002  # used by subclasses
        """Return a metric's state without the values after `step`; a false value discards it."""
        return None

    def state(self) -> State:
        """Return the state of the metrics and their findings."""
        began = {metric: list(position) for metric, position in self.began.items()}
        return {**super().state(), "seen": self.seen, "wrong": self.findings, "began": began}

    def restore(self, state: State) -> None:
        """Restore the state that `state` returned."""
        super().restore(state)
        self.seen, self.findings = state["seen"], state["wrong"]
        self.began = {metric: Cursor(*position) for metric, position in state["began"].items()}

    def _has_room(self, metric: str) -> bool:
        return metric in self.seen or metric in self.findings or len(self.seen) + len(self.findings) < self.max_metrics


def measurements(event: Event) -> Iterator[tuple[str, float]]:
    """Yield the numbers of an event with their metrics' names; those of `scalars` are `<name>/<label or index>`."""
    if event.type == "scalar":
        yield event.name, event.value
    elif isinstance(event.value, Mapping):
        named = ((f"{event.name}/{label}", value) for label, value in event.value.items())
        # A label may be a megabyte long.
        yield from ((name, value) for name, value in named if len(name) <= MAX_METRIC_CHARACTERS)
    else:
        yield from ((f"{event.name}/{index}", value) for index, value in enumerate(event.value))
