"""The training thread makes no progress, though its process lives."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Final

from trainwire_protocol.events import LAST_EVENTS, Event
from trainwire_sinks.alerts.alert import Severity
from trainwire_sinks.alerts.rule import Rule
from trainwire_sinks.alerts.settings import Bounds
from trainwire_sinks.runtime.base import State

if TYPE_CHECKING:
    from trainwire_sinks.alerts.host_probe import HostSnapshot
    from trainwire_sinks.runtime.base import Pulse

KEPT_TIMES: Final = 100
"""Times of which the median is the usual one."""

LEAST_TIMES: Final = 3
"""Steps from which on their usual time is known; one evaluation is enough."""

FRESH_SECONDS: Final = 5.0
"""A publisher that was silent for longer has no heartbeats that go on."""

TRAINING: Final = "training"
EVALUATION: Final = "evaluation"


@dataclass(kw_only=True)
class Stalled(Rule):
    """The training thread has recorded no step for `factor` times as long as usual, though heartbeats go on.

    What is usual is the median time between the last 100 steps that it told of, and in an evaluation that of the
    evaluations before. While that is not known, `unknown` seconds are waited for: a first step may have much to
    compile. Time in which the training was paused, or its process silent, does not count, and a training that gives no
    steps is not looked at. Clears with the next step, and when the training has ended by itself.
    """

    kind = "stalled"
    fields = ("idle", "usual")
    template = "{run} has made no step for {idle} s, though it lives; the last is {step}, their usual time {usual}"
    is_timed = True

    severity: Severity = "critical"
    factor: Annotated[float, Bounds(least=1)] = 10.0
    at_least: Annotated[float, Bounds(least=0)] = 300.0
    unknown: Annotated[float, Bounds(least=0)] = 1800.0

    def __post_init__(self) -> None:
        super().__post_init__()
        self._begin()
        self._times: dict[str, list[float]] = {TRAINING: [], EVALUATION: []}

    def _begin(self) -> None:
        self._step: int | None = None
        self._since: float | None = None
        self._phase = TRAINING
        self._has_metrics = False
        self._awake = 0.0
        """When the training was last seen paused or back after a silence, by its clock: no step is expected before."""
        self._is_silent = False

    def wants(self, event: Event) -> bool:
        """Metrics tell steps, evaluations take their own time, and a training that has ended makes none."""
        return event.type in ("scalar", "scalars") or (event.type == "lifecycle" and event.name in _TOLD)

    def see(self, event: Event) -> None:
        """Measure the time between two steps, and that of an evaluation."""
        if event.name in LAST_EVENTS:
            self.finding = None
        elif event.type == "lifecycle":
            self._change_phase(event)
        elif event.step != self._step:
            if self._step is not None:
                self.finding = None
                self._note(TRAINING, event.walltime)
            self._step, self._since = event.step, event.walltime
        self._has_metrics = True

    def tick(self, pulse: Pulse, around: HostSnapshot) -> None:  # noqa: ARG002  # it looks at nothing beside the pulse
        """Compare the time since the last step, by the publisher's own clock, to what is usual."""
        heartbeat = pulse.heartbeat
        self._is_silent = self._is_silent or pulse.silence > FRESH_SECONDS
        if heartbeat is None or pulse.silence > FRESH_SECONDS:
            return
        now, last = (heartbeat.fields.get(name) for name in ("walltime", "step_walltime"))
        if not isinstance(now, (int, float)) or not isinstance(last, (int, float)):
            return
        state = heartbeat.fields.get("state")
        if state != "running" or (self._has_metrics and not self._step):
            self._awake = now if state == "paused" else self._awake
            self.finding = None
        else:
            # Its process may have been stopped, or its host asleep.
            self._awake, self._is_silent = now if self._is_silent else self._awake, False
            self._judge(now - max(last, self._awake), last)

    def resume(self, step: int) -> None:  # noqa: ARG002  # it measures anew
        """Another process: its steps may take another time."""
        self.__post_init__()

    def state(self) -> State:
        """What was measured."""
        own: dict[str, Any] = {name: getattr(self, f"_{name}") for name in _STATE}
        return {**super().state(), **own}

    def restore(self, state: State) -> None:
        """Take up what `state` returned."""
        super().restore(state)
        for name in _STATE:
            setattr(self, f"_{name}", state[name])

    def _change_phase(self, event: Event) -> None:
        begins = event.name == "evaluation/started"
        if not begins:
            self._note(EVALUATION, event.walltime)
        self._phase = EVALUATION if begins else TRAINING
        self._since = event.walltime

    def _note(self, phase: str, walltime: float) -> None:
        """Note how long a step or an evaluation took; a step in which another phase began is none to measure."""
        if self._since is not None and phase == self._phase and walltime > self._since:
            self._times[phase] = [*self._times[phase], walltime - self._since][-KEPT_TIMES:]

    def _judge(self, idle: float, last: float) -> None:
        occasion = f"step-{last}"
        usual = self._usual()
        if idle >= max(self.at_least, self.unknown if usual is None else self.factor * usual):
            told = "unknown" if usual is None else f"{usual:.3g} s"
            self.finding = self.finding or {"idle": round(idle, 1), "usual": told, "occasion": occasion}
        elif self.finding and self.finding["occasion"] != occasion:
            self.finding = None

    def _usual(self) -> float | None:
        times = sorted(self._times[self._phase])
        least = LEAST_TIMES if self._phase == TRAINING else 1
        return times[(len(times) - 1) // 2] if len(times) >= least else None


_TOLD: Final = LAST_EVENTS | {"evaluation/started", "evaluation/finished"}

_STATE: Final = ("times", "step", "since", "phase", "has_metrics", "awake", "is_silent")
