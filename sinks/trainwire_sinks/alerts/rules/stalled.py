"""The rule `stalled`: the training thread makes no progress although its process is alive."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Final

from trainwire_protocol.events import LAST_EVENTS, Event
from trainwire_protocol.statistics import low_median
from trainwire_protocol.wire import Cursor
from trainwire_sinks.alerts.alert import Severity
from trainwire_sinks.alerts.rule import Rule
from trainwire_sinks.alerts.settings import Bounds
from trainwire_sinks.runtime.sink import State

if TYPE_CHECKING:
    from trainwire_sinks.alerts.host_probe import HostSnapshot
    from trainwire_sinks.runtime.sink import PublisherStatus

WINDOW: Final = 100
"""Number of durations whose median is the usual duration."""

MIN_STEPS: Final = 3
"""Number of steps after which their usual duration is known; one evaluation is enough."""

MAX_SILENCE_SECONDS: Final = 5.0
"""Seconds of silence after which the last heartbeat is out of date."""

TRAINING: Final = "training"
EVALUATION: Final = "evaluation"

_LIFECYCLE_EVENTS: Final = LAST_EVENTS | {"evaluation/started", "evaluation/finished"}

_STATE: Final = ("times", "step", "since", "phase", "has_metrics", "awake", "is_silent")


@dataclass(kw_only=True)
class Stalled(Rule):
    """The training thread has recorded no step for `factor` times the usual duration, while heartbeats continue.

    The usual duration is the median time between the last 100 recorded steps, and within an evaluation the median
    duration of the evaluations before it. While it is not known, the rule waits for `unknown` seconds, since the first
    step may have much to compile. Time in which the training was paused or its process silent does not count, and a
    training that records no steps is ignored. Clears with the next step, and when the training ends by itself.
    """

    kind = "stalled"
    fields = ("idle", "usual")
    template = (
        "{run} has recorded no step for {idle} s although its process is alive: last step {step}, usual duration "
        "{usual}"
    )
    is_timed = True

    severity: Severity = "critical"
    factor: Annotated[float, Bounds(minimum=1)] = 10.0
    at_least: Annotated[float, Bounds(minimum=0)] = 300.0
    unknown: Annotated[float, Bounds(minimum=0)] = 1800.0

    def __post_init__(self) -> None:
        super().__post_init__()
        self._times: dict[str, list[float]] = {TRAINING: [], EVALUATION: []}
        """The last durations, by phase."""
        self._step: int | None = None
        self._since: float | None = None
        """When the step or evaluation in progress began, by its event's walltime."""
        self._phase = TRAINING
        self._has_metrics = False
        self._awake = 0.0
        """Walltime, by the training's clock, when it was last paused or silent; idle time before it does not count."""
        self._is_silent = False

    def matches(self, event: Event) -> bool:
        """Return whether the event shows a step, begins or ends an evaluation, or ends the training."""
        return event.type in ("scalar", "scalars") or (event.type == "lifecycle" and event.name in _LIFECYCLE_EVENTS)

    def observe(self, event: Event) -> None:
        """Measure the duration of a step or an evaluation."""
        if event.name in LAST_EVENTS:
            self.finding = None
        elif event.type == "lifecycle":
            is_start = event.name == "evaluation/started"
            if not is_start:
                self._measure(EVALUATION, event.walltime)
            self._phase = EVALUATION if is_start else TRAINING
            self._since = event.walltime
        elif event.step != self._step:
            if self._step is not None:
                self.finding = None
                self._measure(TRAINING, event.walltime)
            self._step, self._since = event.step, event.walltime
        self._has_metrics = True

    def tick(self, status: PublisherStatus, host: HostSnapshot) -> None:  # noqa: ARG002  # only the status is needed
        """Compare the time since the last step, by the publisher's clock, with the usual duration."""
        heartbeat = status.heartbeat
        self._is_silent = self._is_silent or status.silence > MAX_SILENCE_SECONDS
        if heartbeat is None or status.silence > MAX_SILENCE_SECONDS:
            return
        now, last = (heartbeat.fields.get(name) for name in ("walltime", "step_walltime"))
        if not isinstance(now, (int, float)) or not isinstance(last, (int, float)):
            return
        state = heartbeat.fields.get("state")
        if state != "running" or (self._has_metrics and not self._step):
            self._awake = now if state == "paused" else self._awake
            self.finding = None
        else:
            # After a silence, the process may have been stopped or its host suspended.
            self._awake, self._is_silent = now if self._is_silent else self._awake, False
            self._compare(now - max(last, self._awake), last)

    def resume(self, origin: Cursor, step: int) -> None:  # noqa: ARG002  # nothing is kept
        """Measure again: the steps of the new process may take longer or shorter."""
        self.__post_init__()

    def state(self) -> State:
        """Return the durations and the step in progress."""
        own: dict[str, Any] = {name: getattr(self, f"_{name}") for name in _STATE}
        return {**super().state(), **own}

    def restore(self, state: State) -> None:
        """Restore the state that `state` returned."""
        super().restore(state)
        for name in _STATE:
            setattr(self, f"_{name}", state[name])

    def _measure(self, phase: str, walltime: float) -> None:
        """Keep the duration of a step or an evaluation, unless another phase began in between."""
        if self._since is not None and phase == self._phase and walltime > self._since:
            self._times[phase] = [*self._times[phase], walltime - self._since][-WINDOW:]

    def _compare(self, idle: float, last: float) -> None:
        occasion = f"step-{last}"
        usual = self._usual_duration()
        if idle >= max(self.at_least, self.unknown if usual is None else self.factor * usual):
            shown = "unknown" if usual is None else f"{usual:.3g} s"
            self.finding = self.finding or {"idle": round(idle, 1), "usual": shown, "occasion": occasion}
        elif self.finding and self.finding["occasion"] != occasion:
            self.finding = None

    def _usual_duration(self) -> float | None:
        times = self._times[self._phase]
        needed = MIN_STEPS if self._phase == TRAINING else 1
        return low_median(times) if len(times) >= needed else None
