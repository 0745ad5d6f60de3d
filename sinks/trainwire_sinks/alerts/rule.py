"""What a rule is: it looks at events, and at the time that passes, and knows whether there is something to tell."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Final, TypeAlias

from trainwire_protocol.events import Event
from trainwire_sinks.alerts.alert import Severity
from trainwire_sinks.alerts.settings import Bounds
from trainwire_sinks.runtime.base import State

if TYPE_CHECKING:
    from trainwire_sinks.alerts.host_probe import HostSnapshot
    from trainwire_sinks.runtime.base import Pulse

Finding: TypeAlias = Mapping[str, Any]
"""What a rule has found: a value for each of its `fields`, and perhaps an `occasion`, as JSON can hold them."""

ALL: Final = "*"
"""Stands for all notifiers of the file."""

MAX_METRIC_CHARACTERS: Final = 1024
"""A metric of `scalars` with a longer name is left."""


@dataclass(kw_only=True)
class Rule:
    """One rule of a rules file: its settings are those of its table, and beside them it has what it has seen.

    `finding` says what there is to tell now; None if there is nothing, or no longer. The engine looks at it after each
    of the calls below. An `occasion` in it tells this one from others of the same rule; without one, the event that was
    seen last does.
    """

    kind: ClassVar[str]
    """What the rules file calls it."""
    fields: ClassVar[tuple[str, ...]] = ()
    """What its message can name, beside what any can."""
    template: ClassVar[str]
    """Its message if the rules file gives none."""
    is_timed: ClassVar[bool] = False
    """Whether it looks at the time that passes: `tick` is called."""

    severity: Severity = "warning"
    cool_down: Annotated[float, Bounds(least=0)] = 300.0
    message: str = ""
    notifiers: tuple[str, ...] = (ALL,)

    def __post_init__(self) -> None:
        self.finding: Finding | None = None

    def wants(self, event: Event) -> bool:  # noqa: ARG002  # for those that look at events
        """Whether it looks at events of this type and name."""
        return False

    def see(self, event: Event) -> None:
        """Look at an event that it wants."""

    def tick(self, pulse: Pulse, around: HostSnapshot) -> None:
        """Look at what is known now, while the run goes on."""

    def end(self) -> None:
        """The attempt is over, without a last event."""

    def resume(self, step: int) -> None:
        """A further attempt has begun, and what was recorded after `step` counts no more."""

    def state(self) -> State:
        """What it has to know to go on."""
        return {"finding": self.finding}

    def restore(self, state: State) -> None:
        """Take up what `state` returned."""
        self.finding = state["finding"]


@dataclass(kw_only=True)
class MetricRule(Rule):
    """A rule on metrics: it tells the first of those that something is wrong with, until there is none."""

    max_metrics: ClassVar[int] = 1000
    """Metrics that it remembers something of; further ones it leaves."""

    metric: str

    def __post_init__(self) -> None:
        super().__post_init__()
        self.seen: dict[str, Any] = {}
        """What it remembers of each metric."""
        self.wrong: dict[str, Finding] = {}
        """The findings, by metric."""

    def wants(self, event: Event) -> bool:
        """Whether a number in it may be one of the metrics."""
        return event.type == "scalars" or (event.type == "scalar" and fnmatchcase(event.name, self.metric))

    def see(self, event: Event) -> None:
        """Judge each of its numbers."""
        for metric, value in measurements(event):
            if fnmatchcase(metric, self.metric) and self._has_room(metric):
                self._note(metric, self.judge(metric, value, event))
        self.finding = next(iter(self.wrong.values()), None)

    def judge(self, metric: str, value: float, event: Event) -> Finding | None:
        """What is wrong with this value of a metric; may keep what it needs to know in `seen[metric]`."""
        raise NotImplementedError

    def resume(self, step: int) -> None:
        """Forget what is superseded: what was wrong may show again."""
        self.seen = {metric: kept for metric, memory in self.seen.items() if (kept := self.keep(memory, step))}
        self.wrong, self.finding = {}, None

    def keep(self, memory: Any, step: int) -> Any:  # noqa: ARG002  # for those that remember steps
        """What of the memory of a metric counts, now that what came after `step` does not; nothing if left out."""
        return None

    def state(self) -> State:
        """What it remembers, and what is wrong."""
        return {**super().state(), "seen": self.seen, "wrong": self.wrong}

    def restore(self, state: State) -> None:
        """Take up what `state` returned."""
        super().restore(state)
        self.seen, self.wrong = state["seen"], state["wrong"]

    def _has_room(self, metric: str) -> bool:
        return metric in self.seen or metric in self.wrong or len(self.seen) + len(self.wrong) < self.max_metrics

    def _note(self, metric: str, finding: Finding | None) -> None:
        if finding is None:
            self.wrong.pop(metric, None)
        else:
            self.wrong[metric] = finding


def measurements(event: Event) -> Iterator[tuple[str, float]]:
    """The numbers of an event, each with the name of its metric: those of `scalars` are `<name>/<label or place>`."""
    if event.type == "scalar":
        yield event.name, event.value
    elif isinstance(event.value, Mapping):
        named = ((f"{event.name}/{label}", value) for label, value in event.value.items())
        # A label may be a megabyte long.
        yield from ((name, value) for name, value in named if len(name) <= MAX_METRIC_CHARACTERS)
    else:
        yield from ((f"{event.name}/{place}", value) for place, value in enumerate(event.value))
