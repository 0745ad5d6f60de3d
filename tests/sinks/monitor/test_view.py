"""A view depends on batches and heartbeats only, and has bounded memory."""

from __future__ import annotations

import tracemalloc
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.recorder import Recorder

from trainwire_protocol.events import Event
from trainwire_protocol.transport.live import Heartbeat
from trainwire_protocol.wire import Batch, Header
from trainwire_sinks.monitor.descriptions import describe
from trainwire_sinks.monitor.log import MAX_CHARACTERS, MAX_LINES
from trainwire_sinks.monitor.metrics import MAX_METRICS, most_interesting
from trainwire_sinks.monitor.view import View
from trainwire_sinks.testing.check_sink import sample_run
from trainwire_sinks.text.format import duration, one_line

T = 1.75e9


def scalar(name: str, value: float, step: int) -> Event:
    return Event(name, value, "scalar", T + step, step)


def happened(name: str, step: int = 0, **value: Any) -> Event:
    return Event(name, value, "lifecycle", T + step, step)


def view_of(*batches: Batch) -> View:
    view = View("digits")
    for batch in batches:
        view.add_batch(batch)
    view.is_caught_up = True
    return view


def heartbeat(heard: float, **fields: Any) -> Heartbeat:
    return Heartbeat(Header("digits-1", 0, 0, "heartbeat", 5, 0, {"event": 3, "media": 4}), fields, heard)


def means(view: View, name: str) -> list[tuple[float, float]]:
    return [(bucket.step, bucket.mean) for bucket in view.metrics.series[name].buckets()]


def test_a_run_from_beginning_to_end() -> None:
    """State, epoch, step and remaining time follow a run from its start to its end."""
    recorder = Recorder()
    view = View("digits")
    assert view.state(0) == "waiting for the run to begin"
    view.add_batch(recorder.record([happened("run/started")]))
    assert view.state(0) == "reading its history"
    view.is_caught_up = True
    view.add_batch(recorder.record([happened("epoch/started", 0, epoch=1, max_epochs=4, batches=10)]))
    view.add_batch(recorder.record([scalar("train/loss", 1.0, step) for step in range(1, 6)]))
    assert view.progress.fraction == pytest.approx(0.125)
    assert view.progress.seconds_left == pytest.approx(35)
    assert view.progress.steps_per_second == pytest.approx(1)
    assert describe(view, 0) == "running · epoch 1/4 · step 5 · 1 steps/s · 35 s left"
    view.add_batch(recorder.record([scalar("train/loss", 1.0, 10), happened("epoch/finished", 10, epoch=1)]))
    assert view.progress.fraction == pytest.approx(0.25)
    view.add_batch(recorder.record([happened("run/finished", 10, reason="enough")], last=True))
    assert describe(view, 0) == "finished: enough · epoch 1/4 · step 10"


def test_heartbeats_report_what_events_do_not() -> None:
    """Pauses, dropped values, the heads of all channels and silence are known from heartbeats."""
    view = view_of(Recorder().record([happened("run/started")]))
    view.add_heartbeat(heartbeat(100.0, state="paused", dropped=7))
    assert (view.state(101), view.dropped, view.heads[0]) == ("paused", 7, {"event": 3, "media": 4})
    assert view.state(110) == "silent for 10 s"
    view.add_heartbeat(heartbeat(111.0, state="running", step="no number"))
    assert view.state(111) == "running"


def test_a_process_that_is_gone_has_died() -> None:
    """A run whose stream ends without a last event has died; one that cannot be read has not."""
    recorder = Recorder()
    first = recorder.record([happened("run/started")])
    view = view_of(first)
    view.end()
    assert view.state(0).startswith("died")
    view = view_of(first)
    view.end("the journal cannot be read")
    assert "the journal cannot be read" in describe(view, 0)
    assert not view.is_over


def test_a_resumed_run_shows_no_superseded_point() -> None:
    """Repeated steps replace those after the mark; the log keeps both; the state is running again."""
    first, second = Recorder(), Recorder(attempt=1)
    kept = first.record([scalar("train/loss", step, step) for step in range(3)])
    mark = first.record([happened("run/marked", 2, mark=1)])
    lost = first.record([scalar("train/loss", 99, 3), scalar("later", 1, 3), happened("run/failed", 3)], last=True)
    origin = {"from": {"attempt": 0, "seq": mark.cursor.seq}, "from_step": 2}
    view = view_of(kept, mark, lost)
    assert view.state(0) == "failed"
    again = [second.record([happened("run/resumed", 2, **origin)]), second.record([scalar("train/loss", 3, 3)])]
    for batch in again:
        view.add_batch(batch)
    assert means(view, "train/loss") == [(0, 0), (1, 1), (2, 2), (3, 3)]
    assert set(view.metrics.series) == {"train/loss"}
    assert view.state(0) == "running"
    assert "resumed" in describe(view, 0)
    assert any("resumed from step 2" in line.text for line in view.log.lines)


def test_a_run_that_is_begun_again_shows_no_earlier_metrics() -> None:
    """Resumed without a position, the earlier metrics are removed."""
    first, second = Recorder(), Recorder(attempt=1)
    view = view_of(first.scalars(5), second.record([happened("run/resumed", **{"from": None})]))
    assert view.metrics.series == {}


def test_events_of_all_types_are_accepted() -> None:
    """A run with events of each type, odd names and unknown types is read to its end."""
    view = view_of(*sample_run())
    assert view.state(0) == "finished"
    assert {"learning_rate/0", "losses/b/c"} <= set(view.metrics.series)
    assert all(one_line(str(line)) == str(line) for line in view.log.lines)


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["run/started", "run/resumed", "epoch/started", "epoch/finished", "run/failed", "odd"]),
            st.dictionaries(
                st.sampled_from(["epoch", "max_epochs", "batches", "complete", "reason", "from", "from_step"]),
                st.none() | st.booleans() | st.integers(-3, 2**63) | st.text(max_size=5) | st.lists(st.integers(0, 9)),
            ),
            st.integers(-(2**63), 2**63 - 1),
            st.floats(-1e12, 1e12),
        ),
        max_size=8,
    )
)
@settings(max_examples=60)
def test_lifecycle_fields_may_be_anything(events: Sequence[tuple[str, dict[str, Any], int, float]]) -> None:
    """Whatever fields, steps and times lifecycle events have, the state is one printable line."""
    recorder = Recorder()
    view = view_of(
        *(recorder.record([Event(name, value, "lifecycle", time, step)]) for name, value, step, time in events)
    )
    line = describe(view, 0)
    assert line == one_line(line)


def test_memory_is_bounded() -> None:
    """More points, log lines and metrics do not increase memory, and metrics beyond the limit are counted."""
    recorder, view = Recorder(), View("digits")

    def record(names: int, steps: range) -> None:
        for step in steps:
            view.add_batch(recorder.record([scalar(f"metric/{name}", 1.0, step) for name in range(names)]))
            record = {"level": "INFO", "logger": "x", "message": f"{step} " + "x" * 5000}
            view.add_batch(recorder.record([Event("log", record, "log", T, step)]))

    record(5, range(1100))
    tracemalloc.start()
    record(5, range(1100, 1700))
    grown, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    # Lines that are replaced were allocated before tracing began.
    assert grown < MAX_LINES * 2 * MAX_CHARACTERS
    assert len(view.log.lines) == MAX_LINES
    assert all(len(series) <= 1000 for series in view.metrics.series.values())
    record(MAX_METRICS + 7, range(1))
    assert (len(view.metrics.series), view.metrics.left_out) == (MAX_METRICS, 7)


def test_losses_are_shown_first() -> None:
    """Losses come before scores, and scores before other metrics."""
    names = ["norm", "dev/accuracy", "train/loss", "other", "dev/loss"]
    assert most_interesting(names, 3) == ["train/loss", "dev/loss", "dev/accuracy"]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.4, "0 s"), (62, "1 min 02 s"), (3900, "1 h 05 min"), (9e4, "1 d 01 h"), (1e300, "11574 d 01 h")],
)
def test_durations_are_short(seconds: float, text: str) -> None:
    """A duration is given in its two largest units."""
    assert duration(seconds) == text


def test_the_log_can_be_filtered() -> None:
    """Lines are selected by text, ignoring case, and by minimum level."""
    recorder = Recorder()
    events = [
        Event("log", {"level": level, "logger": "a", "message": text}, "log", T, 0)
        for level, text in [("DEBUG", "one"), ("INFO", "two"), ("ERROR", "[red]THREE\x1b[2J"), ("CUSTOM", "four")]
    ]
    log = view_of(recorder.record(events)).log
    assert [line.text for line in log.matching("three")] == ["a: [red]THREE\\x1b[2J"]
    assert [line.level for line in log.matching(level="INFO")] == ["INFO", "ERROR", "CUSTOM"]
    assert [line.text for line in log.since(3)] == ["a: four"]
