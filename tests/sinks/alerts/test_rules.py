"""Each kind of rule, tested with events and the publisher's status."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from trainwire_protocol.transport.live import Heartbeat
from trainwire_protocol.wire import Batch, Cursor, Header
from trainwire_sinks import Event
from trainwire_sinks.alerts.alert import Alert
from trainwire_sinks.alerts.engine import Engine
from trainwire_sinks.alerts.host_probe import HostSnapshot
from trainwire_sinks.alerts.rules_file import parse_rules
from trainwire_sinks.runtime.sink import PublisherStatus
from trainwire_sinks.testing.check_sink import record

UNKNOWN_HOST = HostSnapshot()


def scalar(value: float, step: int = 0, name: str = "train/loss", walltime: float | None = None) -> Event:
    return Event(name, value, "scalar", float(step if walltime is None else walltime), step)


def happened(name: str, walltime: float = 0.0, step: int = 0, **value: object) -> Event:
    return Event(name, value, "lifecycle", walltime, step)


def losses(*values: float) -> list[Event]:
    """Return a loss for each step, one second apart."""
    return [scalar(value, step) for step, value in enumerate(values, 1)]


class Bench:
    """An engine with one rule, which is restored from JSON before each batch, as after a crash of its sink."""

    def __init__(self, settings: str) -> None:
        self._settings = settings
        self._state: dict[str, Any] = {}
        self.alerts: list[Alert] = []

    def _engine(self) -> Engine:
        file = parse_rules(f"[rules.it]\n{self._settings}", "rules.toml")
        engine = Engine(file.rules, file.all_notifiers)
        engine.restore(json.loads(json.dumps(self._state)))
        return engine

    def show(self, *attempts: Sequence[Event]) -> list[str]:
        """Handle events, one in each batch; return the state and step of each alert."""
        batches = record(*[[[event] for event in attempt] for attempt in attempts], run="run")
        return self.handle(batches)

    def handle(self, batches: Sequence[Batch]) -> list[str]:
        """Handle batches; return the state and step of each alert."""
        before = len(self.alerts)
        for batch in batches:
            engine = self._engine()
            self.alerts += engine.handle(batch, batch.events)
            self._state = engine.state()
        return [f"{alert.state} {alert.step}" for alert in self.alerts[before:]]

    def tick(self, status: PublisherStatus, host: HostSnapshot = UNKNOWN_HOST) -> list[str]:
        """Pass a status to the rules; return the states of the alerts."""
        engine = self._engine()
        found = list(engine.tick(status, host))
        self.alerts += found
        self._state = engine.state()
        return [alert.state for alert in found]


def beat(
    walltime: float, step_walltime: float, *, state: str = "running", silence: float = 0.0, head: int = 0, **more: Any
) -> PublisherStatus:
    """Return a status with a heartbeat of these fields."""
    header = Header("run", 0, 0, "heartbeat", head + 1, 0, {"event": head})
    fields = {"walltime": walltime, "state": state, "step": 1, "step_walltime": step_walltime, "dropped": 0}
    return PublisherStatus(walltime, Heartbeat(header, fields, 0.0), silence, **more)


def silent(now: float, silence: float, *, is_over: bool = False) -> PublisherStatus:
    """Return a status without a heartbeat."""
    return PublisherStatus(now, None, silence, is_over)


def test_a_value_that_is_not_finite_fires_once_and_clears() -> None:
    """NaN and the infinities fire once; the next finite value clears."""
    bench = Bench('kind = "not-finite"\ncool_down = 0')
    assert bench.show(losses(1, math.nan, math.inf, math.nan, 2, -math.inf, 3)) == [
        "fired 2", "cleared 5", "fired 6", "cleared 7",
    ]  # fmt: skip
    assert bench.alerts[0].message == "train/loss is nan at step 2"
    assert bench.alerts[0].to_json()["details"] == {"metric": "train/loss", "value": "nan"}
    assert bench.alerts[1].message == "cleared after 3 s: train/loss is nan at step 2"


def test_values_of_scalars_are_metrics() -> None:
    """Each value of `scalars` is a metric; the alert clears when all metrics are finite again."""
    bench = Bench('kind = "not-finite"')
    lists = [Event("rates", [0.1, math.nan], "scalars", 1.0, 1), Event("maps", {"a/b": math.inf}, "scalars", 2.0, 2)]
    assert bench.show([*lists, Event("rates", [0.1, 0.2], "scalars", 3.0, 3)]) == ["fired 1"]
    assert bench.alerts[0].details["metric"] == "rates/1"
    again = Bench('kind = "not-finite"')
    again.show([*lists, Event("rates", [0.1, 0.2], "scalars", 3.0, 3), Event("maps", {"a/b": 1}, "scalars", 4.0, 4)])
    assert [alert.state for alert in again.alerts] == ["fired", "cleared"]


def test_a_rule_ignores_other_metrics() -> None:
    """A pattern selects metrics; events of other types are ignored."""
    bench = Bench('kind = "not-finite"\nmetric = "train/*"')
    text = Event("train/note", "nan", "text", 1.0, 1)
    assert bench.show([scalar(math.nan, 1, "dev/loss"), text, scalar(math.nan, 2, "train/x")]) == ["fired 2"]


def test_the_number_of_metrics_is_bounded() -> None:
    """A rule keeps state for 1,000 metrics at most, and for none with a very long name."""
    bench = Bench('kind = "not-finite"')
    many = {str(number): math.nan for number in range(1500)} | {"x" * 5000: math.nan}
    bench.show([Event("m", many, "scalars", 1.0, 1)])
    assert len(bench._state["rules"]["it"]["state"]["wrong"]) == 1000
    assert len(json.dumps(bench._state)) < 100_000


@pytest.mark.parametrize(
    ("operator", "step"), [(">", "3"), (">=", "2"), ("<", "1"), ("<=", "1"), ("==", "2"), ("!=", "1")]
)
def test_a_threshold_compares(operator: str, step: str) -> None:
    """Each operator fires at the first value for which it holds."""
    bench = Bench(f'kind = "threshold"\nmetric = "train/loss"\noperator = "{operator}"\nvalue = 2')
    assert bench.show(losses(1, 2, 3))[0] == f"fired {step}"


def test_a_threshold_waits_for_events_and_seconds() -> None:
    """Only consecutive values count; NaN neither counts nor interrupts them."""
    rule = 'kind = "threshold"\nmetric = "train/loss"\noperator = ">"\nvalue = 1\ncool_down = 0\n'
    assert Bench(rule + "events = 3").show(losses(2, 2, 0, 2, math.nan, 2, 2, 0)) == ["fired 7", "cleared 8"]
    assert Bench(rule + "seconds = 2").show(losses(2, 2, 0, 2, 2, 2, 0)) == ["fired 6", "cleared 7"]


def test_a_spike_fires() -> None:
    """A value far above the median fires and the next usual value clears; noise does not fire."""
    noise = [1 + 0.1 * math.sin(number) for number in range(20)]
    bench = Bench('kind = "spike"\nmetric = "train/loss"\nwindow = 10')
    assert bench.show(losses(50, *noise, 5.0, 1.0, 0.1)) == ["fired 22", "cleared 23"]
    assert bench.alerts[0].details["value"] == 5.0
    assert 0.9 < bench.alerts[0].details["median"] < 1.1


def test_the_robust_score_is_that_of_the_literature() -> None:
    """For 1 to 9 the median is 5 and the MAD is 2, so 15 has the score 10 / (1.4826 · 2) = 3.37."""
    rule = 'kind = "spike"\nmetric = "train/loss"\nwindow = 9\nthreshold = {}'
    events = losses(*range(1, 10), 15)
    assert Bench(rule.format(3.4)).show(events) == []
    bench = Bench(rule.format(3.3))
    assert bench.show(events) == ["fired 10"]
    assert bench.alerts[0].details == {"metric": "train/loss", "value": 15.0, "median": 5.0, "score": 3.4}


@pytest.mark.parametrize(("direction", "first"), [("up", ["fired 12"]), ("down", ["fired 11"]), ("both", ["fired 11"])])
def test_a_spike_has_a_direction(direction: str, first: list[str]) -> None:
    """A spike may be above, below or either, also that of a metric that was constant."""
    bench = Bench(f'kind = "spike"\nmetric = "train/loss"\nwindow = 10\ndirection = "{direction}"')
    assert bench.show(losses(*[1.0] * 10, -9.0, 9.0))[:1] == first


def test_small_changes_are_not_spikes() -> None:
    """The deviation is at least 1 % of the median, so that small changes of a constant metric are not spikes."""
    bench = Bench('kind = "spike"\nmetric = "train/loss"\nwindow = 10')
    assert bench.show(losses(*[1.0] * 10, 1.09, 1.0, 1.11)) == ["fired 13"]


def test_findings_are_discarded_when_a_run_is_resumed() -> None:
    """A NaN in superseded events does not fire again because of an event of another metric."""
    bench = Bench('kind = "not-finite"\ncool_down = 0')
    resumed = happened("run/resumed", 5.0, **{"from": None, "from_step": 0})
    assert bench.show([scalar(math.nan, 1)], [resumed, scalar(1.0, 2, "other")]) == ["fired 1", "cleared 0"]


RULES = {
    "not-finite": ('kind = "not-finite"', (math.nan,) * 8),
    "threshold": ('kind = "threshold"\nmetric = "train/*"\noperator = ">"\nvalue = 5\nevents = 3', (6, 7, 8) * 3),
    "plateau": ('kind = "plateau"\nmetric = "train/*"\nmode = "min"\nevaluations = 2', (1, 2, 2, 2, 2, 2, 2, 2)),
    "spike": ('kind = "spike"\nmetric = "train/*"\nwindow = 11', (1, 2) * 6 + (90, 91)),
}
"""Rules on a metric, each with losses about which it fires and does not clear."""


def from_mark(seq: int, walltime: float = 20.0) -> Event:
    """Return the first event of an attempt that resumes after the loss at `seq`, which is that of the next step."""
    return happened("run/resumed", walltime, seq + 1, **{"from": {"attempt": 0, "seq": seq}, "from_step": seq + 1})


@pytest.mark.parametrize("kind", RULES)
def test_a_finding_that_is_not_superseded_holds(kind: str) -> None:
    """A resumed run, or one that is added to, neither clears an alert whose cause began before nor fires it again."""
    rule, values = RULES[kind]
    first, last = losses(*values), len(values) - 1
    for kept in (last - 1, last):
        bench = Bench(rule)
        (fired,) = bench.show(first)
        again = [scalar(values[-1], step, walltime=20.0 + step) for step in range(kept + 2, kept + 5)]
        batches = record([[event] for event in first], [[event] for event in (from_mark(kept), *again)], run="run")
        assert bench.handle(batches[len(first) :]) == []
        assert bench.alerts[0].state == "fired", fired


@pytest.mark.parametrize("kind", RULES)
def test_a_finding_that_is_superseded_clears_and_is_reported_again(kind: str) -> None:
    """A new start clears the alert, and fires another one if the cause returns, whatever the cool-down of the first."""
    rule, values = RULES[kind]
    anew = happened("run/resumed", 20.0, **{"from": None, "from_step": 0})
    again = [event._replace(walltime=20.0 + event.step) for event in losses(*values)]
    bench = Bench(f"{rule}\ncool_down = 3600")
    (fired,) = Bench(rule).show(losses(*values))
    assert bench.show(losses(*values), [anew, *again]) == [fired, "cleared 0", fired]
    assert [alert.attempt for alert in bench.alerts] == [0, 0, 1]


def test_a_resumed_finding_clears_with_the_next_good_value() -> None:
    """An alert that was kept is cleared by the events of the resumed run."""
    bench = Bench(RULES["threshold"][0])
    assert bench.show(losses(6, 7, 8, 9), [from_mark(2), scalar(7, 4), scalar(1, 5)]) == ["fired 3", "cleared 5"]


def test_values_before_the_mark_count_towards_a_threshold() -> None:
    """Of three values in a row, two were recorded before the run was resumed; superseded ones do not count."""
    for superseded in ([], [1.0], [1.0, 2.0]):
        kept = Bench(RULES["threshold"][0])
        assert kept.show(losses(1, 6, 7, *superseded), [from_mark(2), scalar(8, 4)]) == ["fired 4"]
    cut = Bench(RULES["threshold"][0])
    assert cut.show(losses(1, 6, 7), [from_mark(1), scalar(8, 3), scalar(8, 4)]) == ["fired 4"]


def test_a_superseded_best_value_gives_way_to_the_one_before() -> None:
    """Evaluations since the best value that is kept count after the run was resumed."""
    bench = Bench('kind = "plateau"\nmetric = "train/loss"\nmode = "min"\nevaluations = 4')
    again = [scalar(3, step) for step in (4, 5)]
    assert bench.show(losses(2, 3, 3, 1, 0.5), [from_mark(2), *again]) == ["fired 5"]
    assert bench.alerts[0].details["best"] == 2


def test_a_plateau_fires() -> None:
    """`evaluations` values without an improvement fire, the next better one clears; small gains do not count."""
    rule = 'kind = "plateau"\nmetric = "train/loss"\nmode = "min"\nevaluations = 3\nmin_delta = 0.1\ncool_down = 0'
    bench = Bench(rule)
    assert bench.show(losses(3, 2, 2.5, 1.95, math.nan, 2, 1, 1, 1, 1)) == ["fired 5", "cleared 7", "fired 10"]
    details = bench.alerts[0].details
    assert (details["best"], details["best_step"], details["evaluations"]) == (2.0, 2, 3)
    up = Bench('kind = "plateau"\nmetric = "train/loss"\nmode = "max"\nevaluations = 2')
    assert up.show(losses(1, 2, 3, 3, 3)) == ["fired 5"]


def test_a_plateau_discards_superseded_values() -> None:
    """Evaluations that a resumed run repeats are counted once."""
    bench = Bench('kind = "plateau"\nmetric = "train/loss"\nmode = "min"\nevaluations = 4')
    resumed = happened("run/resumed", **{"from": {"attempt": 0, "seq": 1}, "from_step": 2})
    again = [scalar(2, 3), scalar(2, 4), scalar(2, 5)]
    assert bench.show(losses(1, 2, 2, 2), [resumed, *again]) == ["fired 5"]
    assert bench.alerts[0].attempt == 1


def test_the_end_of_a_run_fires() -> None:
    """Each way to end has its rule, which reports the reason and clears when the run is resumed."""
    for name in ("failed", "interrupted", "finished"):
        bench = Bench(f'kind = "{name}"')
        ends = [scalar(1, 7), happened(f"run/{name}", 9.0, 7, last_seq=1, reason="because")]
        assert bench.show(ends) == ["fired 7"]
        assert bench.alerts[0].details == {"reason": "because"}
        resumed = happened("run/resumed", 20.0, **{"from": None, "from_step": 0})
        again = Bench(f'kind = "{name}"')
        assert again.show(ends, [resumed]) == ["fired 7", "cleared 0"]
        others = {"failed", "interrupted", "finished"} - {name}
        assert Bench(f'kind = "{name}"').show([happened(f"run/{other}") for other in others]) == []


def test_an_attempt_without_an_end_is_dead() -> None:
    """The rule fires once, when the run is over or when a new attempt begins, which also clears it."""
    bench = Bench('kind = "dead"')
    assert bench.show(losses(1, 2)) == []
    assert bench.tick(silent(3.0, 0.0)) == []
    assert bench.tick(silent(4.0, 0.0, is_over=True)) == ["fired"]
    assert bench.tick(silent(5.0, 0.0, is_over=True)) == []
    assert bench.alerts[0].walltime == 2.0
    resumed = happened("run/resumed", 9.0, **{"from": None, "from_step": 0})
    assert bench.handle(record([[event] for event in losses(1, 2)], [[resumed]], run="run")[2:]) == ["cleared 0"]
    late = Bench('kind = "dead"')
    assert late.show(losses(1, 2), [resumed]) == ["fired 2", "cleared 0"]
    assert [alert.key for alert in late.alerts] == [alert.key for alert in bench.alerts]
    ended = Bench('kind = "dead"')
    ended.show([*losses(1), happened("run/failed", 2.0)])
    assert ended.tick(silent(3.0, 60.0)) == []
    assert ended.tick(silent(3.0, 60.0, is_over=True)) == []


def test_a_death_has_the_time_of_the_last_sign_of_life() -> None:
    """The alert about a process that hung before it was killed has the time of its last heartbeat."""
    bench = Bench('kind = "dead"')
    bench.show(losses(1, 2))
    assert bench.tick(beat(5000.0, 2.0, is_over=True)) == ["fired"]
    assert bench.alerts[0].walltime == 5000.0


def test_a_silent_process_is_dead_until_it_is_heard() -> None:
    """Silence fires once, a heartbeat clears, and the next silence is another alert."""
    bench = Bench('kind = "dead"\nseconds = 5')
    bench.show(losses(1))
    assert bench.tick(beat(10.0, 10.0, silence=4.9)) == []
    assert bench.tick(beat(10.0, 10.0, silence=5.1)) == ["fired"]
    assert bench.tick(beat(10.0, 10.0, silence=6.0)) == []
    assert bench.tick(silent(12.0, 0.0)) == []  # a restarted sink has not heard anything yet
    assert bench.tick(beat(20.0, 20.0)) == ["cleared"]
    assert bench.tick(beat(20.0, 20.0, silence=7.0)) == ["fired"]
    assert len({alert.key for alert in bench.alerts}) == 3


def steps(count: int, seconds: float, first: int = 1) -> list[Event]:
    """Return a metric for each step, `seconds` apart."""
    return [scalar(1.0, step, walltime=step * seconds) for step in range(first, first + count)]


STALLED = 'kind = "stalled"\nfactor = 10\nat_least = 2\nunknown = 100\ncool_down = 0'


def test_a_training_without_steps_is_stalled() -> None:
    """Ten times the usual duration without a step fires once; the next step clears."""
    bench = Bench(STALLED)
    bench.show(steps(10, 0.5))
    assert bench.tick(beat(9.9, 5.0)) == []
    assert bench.tick(beat(10.0, 5.0)) == ["fired"]
    assert bench.alerts[-1].details == {"idle": 5.0, "usual": "0.5 s"}
    assert bench.tick(beat(20.0, 5.0)) == []
    assert bench.tick(beat(20.5, 20.4)) == ["cleared"]


def test_a_slow_training_is_not_stalled() -> None:
    """The usual duration is measured, so slow steps do not fire."""
    bench = Bench(STALLED)
    bench.show(steps(10, 60.0))
    assert bench.tick(beat(600.0 + 590.0, 600.0)) == []
    assert bench.tick(beat(600.0 + 601.0, 600.0)) == ["fired"]


def test_the_first_step_may_take_long() -> None:
    """While the usual duration is not known the rule waits longer; a training that records no steps is ignored."""
    bench = Bench(STALLED)
    bench.show([happened("run/started")])
    assert bench.tick(beat(50.0, 0.0)) == []
    assert bench.tick(beat(101.0, 0.0)) == ["fired"]
    without = Bench(STALLED)
    without.show([scalar(1.0, 0), scalar(1.0, 0)])
    assert without.tick(beat(1000.0, 0.0)) == []


def test_an_evaluation_has_its_own_duration() -> None:
    """The first evaluation may take long; later ones are compared with those before them."""
    bench = Bench(STALLED)
    first = [happened("evaluation/started", 5.0, 10), happened("evaluation/finished", 25.0, 10)]
    second = [happened("evaluation/started", 40.0, 30), scalar(1.0, 30, "dev/loss", 40.5)]
    bench.show([*steps(10, 0.5), happened("evaluation/finished", 5.1, 10), first[0]])
    assert bench.tick(beat(24.0, 5.0)) == []
    bench = Bench(STALLED)
    bench.show([*steps(10, 0.5), *first, *[scalar(1.0, 10 + n, walltime=25 + 0.5 * n) for n in range(20)], *second])
    assert bench.tick(beat(239.0, 40.0)) == []
    assert bench.tick(beat(241.0, 40.0)) == ["fired"]


def test_a_paused_training_is_not_stalled() -> None:
    """A training is not stalled while it is paused or just afterwards, nor when it is silent or has ended."""
    bench = Bench(STALLED)
    bench.show(steps(10, 0.5))
    for walltime in (6.0, 60.0):
        assert bench.tick(beat(walltime, 5.0, state="paused")) == []
    assert bench.tick(beat(61.0, 5.0)) == []
    assert bench.tick(beat(70.0, 5.0, silence=9.0)) == []
    assert bench.tick(beat(70.0, 5.0, state="finished")) == []
    assert bench.tick(beat(70.0, 5.0)) == []
    assert bench.tick(beat(80.0, 5.0)) == ["fired"]


def test_a_process_that_was_stopped_is_not_stalled_when_it_continues() -> None:
    """Time in which the process was stopped, or its host suspended, does not count."""
    bench = Bench(STALLED)
    bench.show(steps(10, 0.5))
    assert bench.tick(beat(5.5, 5.0)) == []
    assert bench.tick(beat(5.5, 5.0, silence=3600.0)) == []
    assert bench.tick(beat(3606.0, 5.0)) == []
    assert bench.tick(beat(3612.0, 5.0)) == ["fired"]


def test_a_sink_that_is_started_late_reports_a_stall_at_once() -> None:
    """A sink that has not received a heartbeat yet does not take this for silence."""
    bench = Bench(STALLED)
    bench.show(steps(10, 0.5))
    assert bench.tick(PublisherStatus(900.0, None, 0.0)) == []
    assert bench.tick(beat(900.0, 5.0)) == ["fired"]


@pytest.mark.parametrize("fields", [{}, {"walltime": "x", "step_walltime": 1.0}, {"walltime": 5, "state": 3}])
def test_an_incomplete_heartbeat_is_ignored(fields: dict[str, Any]) -> None:
    """A heartbeat with missing or invalid fields raises no error and fires no alert."""
    for kind in ("stalled", "dead", "sink-behind", "disk-full"):
        bench = Bench(f'kind = "{kind}"')
        bench.show(steps(10, 0.5))
        header = Header("run", 0, 0, "heartbeat", 0, 0, {})
        status = PublisherStatus(1000.0, Heartbeat(header, fields, 0.0), 0.0)
        assert bench.tick(status, HostSnapshot(is_known=True)) == []


def test_a_sink_that_does_not_keep_up_fires() -> None:
    """A sink that is more than `seconds` seconds behind fires; the alert clears once the sink has caught up."""
    bench = Bench('kind = "sink-behind"\nseconds = 60\nsink = "t*"')
    bench.show(steps(10, 0.5))
    file = parse_rules('[rules.it]\nkind = "sink-behind"\nseconds = 60\nsink = "t*"', "rules.toml")
    engine = Engine(file.rules, file.all_notifiers)
    engine.restore(bench._state)

    def look(now: float, head: int, seq: int) -> list[str]:
        host = HostSnapshot(cursors={"tensorboard": Cursor(0, seq), "other": Cursor(0, 0)}, is_known=True)
        return [alert.state + " " + alert.message for alert in engine.tick(beat(now, now, head=head), host)]

    assert look(0, 100, 50) == []
    assert look(59, 200, 99) == []
    assert look(61, 300, 100) == []  # it has handled what was recorded a minute ago
    assert look(120, 400, 200) == []
    assert look(122, 500, 299) == ["fired the sink tensorboard of run is 201 events behind"]
    assert look(123, 500, 299) == []
    assert [message.split()[0] for message in look(130, 500, 500)] == ["cleared"]


def test_a_full_disk_fires(tmp_path: Path) -> None:
    """Too little free space fires and enough space clears; events missing in the journal fire as well."""
    bench = Bench('kind = "disk-full"\nfree_gib = 2')
    bench.show(steps(3, 0.5))
    hosts = [HostSnapshot(folder="runs/x", free={"": gib << 30}, is_known=True) for gib in (3, 1, 2)]
    status = silent(10.0, 0.0)
    assert [bench.tick(status, host) for host in hosts] == [[], ["fired"], ["cleared"]]
    assert bench.alerts[0].message == "1 GiB are free on the disk of runs/x"
    missing = Bench('kind = "disk-full"')
    assert missing.show([scalar(1, 3), happened("journal/missing", 4.0, 3, first_seq=1, last_seq=2)]) == ["fired 3"]


def test_a_cool_down_delays_the_next_alert() -> None:
    """A finding during the cool-down fires after it if it persists; a clock that is set back does not matter."""
    rule = 'kind = "threshold"\nmetric = "train/loss"\noperator = ">"\nvalue = 1\ncool_down = 5'
    assert Bench(rule).show(losses(2, 0, 2, 0, 2, 2, 0)) == ["fired 1", "cleared 2", "fired 6", "cleared 7"]
    back = [scalar(2, 1, walltime=1e6), scalar(0, 2, walltime=1e6), scalar(2, 3, walltime=5)]
    assert Bench(rule).show(back) == ["fired 1", "cleared 2", "fired 3"]


def test_a_cool_down_ends_while_time_passes() -> None:
    """A finding that persists fires when the cool-down ends, without another event."""
    bench = Bench(STALLED.replace("cool_down = 0", "cool_down = 60"))
    bench.show(steps(10, 0.5))
    states = [
        bench.tick(beat(now, last))
        for now, last in ((10, 5), (11, 10.9), (20, 10.9), (69, 10.9), (70, 10.9), (71, 10.9))
    ]
    assert states == [["fired"], ["cleared"], [], [], ["fired"], []]


def test_rules_on_events_ignore_time() -> None:
    """A tick does not fire the alert of a rule on events, even after its cool-down."""
    bench = Bench('kind = "not-finite"\ncool_down = 5')
    assert bench.show(losses(math.nan, 1, math.nan)) == ["fired 1", "cleared 2"]
    assert bench.tick(beat(1000.0, 1000.0)) == []


def test_a_training_that_ends_is_not_stalled() -> None:
    """The end of a stalled training clears the alert."""
    bench = Bench(STALLED)
    bench.show(steps(10, 0.5))
    assert bench.tick(beat(100.0, 5.0)) == ["fired"]
    (*_, ending) = record([[event] for event in [*steps(10, 0.5), happened("run/interrupted", 101.0, 10)]], run="run")
    assert bench.handle([ending]) == ["cleared 10"]


def test_a_message_follows_its_template() -> None:
    """Fields in braces are replaced; values with control characters cannot break the line."""
    rule = 'kind = "not-finite"\nmessage = "{severity} {rule} {run} {rank} {time} {{}} {metric}={value}@{step}"'
    bench = Bench(rule)
    bench.show([scalar(math.inf, 4, "a\n\x1b[31m{run}")])
    assert bench.alerts[0].message == (r"warning it run 0 1970-01-01T00:00:04+00:00 {} a\n\x1b[31m{run}=inf@4")


def test_long_texts_are_truncated() -> None:
    """A reason of a megabyte results in a short alert."""
    bench = Bench('kind = "failed"')
    bench.show([happened("run/failed", reason="x" * 1_000_000)])
    assert len(json.dumps(bench.alerts[0].to_json())) < 10_000


def test_a_changed_rule_starts_without_state() -> None:
    """A changed setting discards the rule's state, unless it only concerns the notification."""
    for change, count in (("window = 12", 0), ('severity = "info"\nwindow = 10', 1)):
        bench = Bench('kind = "spike"\nmetric = "train/loss"\nwindow = 10')
        bench.show(losses(*[1.0] * 11))
        bench._settings = f'kind = "spike"\nmetric = "train/loss"\n{change}'
        batches = record([[event] for event in losses(*[1.0] * 11, 9.0)], run="run")
        assert len(bench.handle(batches[11:])) == count


def test_an_alert_survives_a_change_of_its_rule() -> None:
    """An alert that has fired clears according to the new settings."""
    bench = Bench('kind = "threshold"\nmetric = "train/loss"\noperator = ">"\nvalue = 1')
    assert bench.show(losses(2)) == ["fired 1"]
    bench._settings = bench._settings.replace("value = 1", "value = 5")
    assert bench.handle(record([[event] for event in losses(2, 3)], run="run")[1:]) == ["cleared 2"]
