from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainwire_sinks import Event
from trainwire_sinks.builtin.log_file import LogFile, format_events
from trainwire_sinks.testing.check_sink import check_sink, record, run_sink
from trainwire_sinks.text.format import one_line, timestamp

NOON = 1_767_355_200.0
"""2026-01-02 12:00:00 UTC."""
TIME = "2026-01-02 12:00:00.000+00:00"


def log(message: str, level: str = "INFO", **fields: Any) -> Event:
    return Event("log", {"level": level, "logger": "my.module", "message": message, **fields}, "log", NOON, 0)


def line(name: str, **fields: object) -> str:
    """Return the line of a lifecycle event, without its time and newline."""
    text = format_events([Event(name, fields, "lifecycle", NOON, 0)])
    assert text.startswith(TIME)
    assert text.endswith("\n")
    return text[len(TIME) + 1 : -1]


def test_each_event_takes_effect_once(tmp_path: Path) -> None:
    """The same bytes are written however often the sink commits and wherever it is killed."""
    check_sink(LogFile, tmp_path)


def test_a_record_has_its_time_level_and_logger() -> None:
    """A log record is one line with its time in UTC, its level and its logger."""
    assert format_events([log("hello")]) == f"{TIME} INFO     my.module: hello\n"


@pytest.mark.parametrize(
    "text", ["two\nlines", "a\ttab", "\x1b[2J\x1b[31mred", "\r over", "\x9b31m", "a\u202eb", "\x00"]
)
def test_no_message_breaks_a_line_or_controls_a_terminal(text: str) -> None:
    """Control characters are escaped anywhere in a record."""
    record = Event("log", {"level": text, "logger": text, "message": text}, "log", NOON, 0)
    line = format_events([record])
    assert line.endswith("\n")
    assert line[:-1].isprintable()


def test_a_traceback_is_indented_below_its_record() -> None:
    """The lines of a traceback are kept, and each is escaped."""
    text = format_events([log("oh", "ERROR", exception="Traceback:\n  File x\nValueError: \x1b[31m\n")])
    assert text.splitlines()[1:] == ["    Traceback:", "      File x", "    ValueError: \\x1b[31m"]


def test_a_stack_is_indented_below_its_record() -> None:
    """Where a record was logged is written as a traceback is."""
    text = format_events([log("oh", "ERROR", stack="Stack:\n  File x")])
    assert text.splitlines()[1:] == ["    Stack:", "      File x"]


def test_a_long_hyperparameter_is_shortened() -> None:
    """Thousands of numbers do not fill the log."""
    text = format_events([Event("hparams", {"weights": [0.5] * 10_000, "lr": 0.1}, "hparams", NOON, 0)])
    assert len(text) < 1200
    assert text.endswith("…\n    lr: 0.1\n")


def test_hyperparameters_are_listed_one_to_a_line() -> None:
    """The hyperparameters are listed below a heading."""
    event = Event("hparams", {"learning_rate": 5e-5, "device": "cpu", "layers": (8, 4)}, "hparams", NOON, 0)
    assert format_events([event]).splitlines() == [
        f"{TIME} INFO     parameters:",
        "    learning_rate: 5e-05",
        "    device: cpu",
        "    layers: [8, 4]",
    ]


@pytest.mark.parametrize(
    ("event", "fields", "expected"),
    [
        (
            "run/started",
            {"run": "digits-1", "rank": 0, "world_size": 2, "resumed": False, "python": "3.11"},
            "INFO     run digits-1 started, rank 0 of 2 (python 3.11)",
        ),
        ("epoch/started", {"epoch": 1, "max_epochs": 10, "batches": 5}, "INFO     epoch 1 of 10 started"),
        ("epoch/started", {"epoch": 1}, "INFO     epoch 1 started"),
        (
            "epoch/finished",
            {"epoch": 1, "complete": True, "seconds": 1.26, "bad_epochs": 2, "metrics": {"train/loss": 1 / 3}},
            "INFO     epoch 1 finished in 1.3 s: train/loss 0.333333, bad epochs 2",
        ),
        ("epoch/finished", {"epoch": 2, "complete": False}, "INFO     epoch 2 cut short"),
        (
            "epoch/evaluated",
            {"epoch": 2, "batch": 50, "batches": 100, "bad_epochs": 3, "metrics": {"dev/loss": 0.5}},
            "INFO     epoch 2, batch 50/100 evaluated: dev/loss 0.5, bad evaluations 3",
        ),
        ("epoch/evaluated", {"epoch": 2}, "INFO     epoch 2 evaluated"),
        (
            "evaluation/finished",
            {"split": "dev", "epoch": 1, "metrics": {"loss": 5e-5}, "seconds": 0.5},
            "INFO     evaluation on dev in 500 ms: loss 5e-05",
        ),
        (
            "checkpoint/saved",
            {"path": "best-model.pt", "kind": "best", "epoch": 1, "metric": "dev/accuracy", "score": 0.98},
            "INFO     best model saved: best-model.pt (dev/accuracy 0.98)",
        ),
        ("checkpoint/saved", {"path": "final.pt", "kind": "final"}, "INFO     final model saved: final.pt"),
        (
            "learning_rate/changed",
            {"from": 0.1, "to": 5e-5, "reason": "plateau"},
            "INFO     learning rate changed from 0.1 to 5e-05 (plateau)",
        ),
        ("command/applied", {"id": "a", "verb": "stop"}, "INFO     command stop applied"),
        ("command/rejected", {"id": "a", "verb": "set", "reason": "no"}, "WARNING  command set rejected: no"),
        ("run/finished", {"last_seq": 9, "reason": None}, "INFO     run finished"),
        ("run/failed", {"last_seq": 9, "reason": "ValueError: x"}, "WARNING  run failed: ValueError: x"),
        ("events/dropped", {"count": 3, "first": {"a": 1}}, 'WARNING  events/dropped: count 3, first {"a": 1}'),
        ("of/a/later\nversion", {"a": [1]}, "INFO     of/a/later\\nversion: a [1]"),
    ],
)
def test_a_lifecycle_event_has_a_line(event: str, fields: dict[str, object], expected: str) -> None:
    """Every lifecycle event has a readable line, including those of later versions."""
    assert line(event, **fields) == expected


@pytest.mark.parametrize("name", ["run/started", "epoch/finished", "evaluation/finished", "checkpoint/saved"])
def test_missing_fields_are_tolerated(name: str) -> None:
    """An event whose fields are missing or have the wrong type still has a line."""
    assert line(name)
    assert line(name, metrics=3, seconds="x", epoch=None, score=[], rank={})


def test_a_line_marks_where_a_resumed_run_continues(tmp_path: Path) -> None:
    """Nothing is removed when a run is resumed; a line names the step from which it continues."""
    resumed = Event("run/resumed", {"from": {"attempt": 0, "seq": 0}, "from_step": 7}, "lifecycle", NOON, 0)
    run_sink(LogFile, tmp_path, record([[log("kept"), log("superseded")]], [[resumed, log("new")]]))
    lines = (tmp_path / "training.log").read_text().splitlines()
    assert [text.split()[-1] for text in (lines[0], lines[1], lines[3])] == ["kept", "superseded", "new"]
    assert "resumed from step 7 (attempt 0, event 0)" in lines[2]


def test_other_types_are_omitted() -> None:
    """Metrics and events of unknown types have no line."""
    for kind in ("scalar", "text", "image", "hologram"):
        assert format_events([Event("a", "b", kind, NOON, 0)]) == ""


@pytest.mark.parametrize("walltime", [1e300, -1e300, 1e12])
def test_a_time_that_is_no_date_is_written_as_a_number(walltime: float) -> None:
    """A walltime that `datetime` cannot represent is written as a number."""
    assert format_events([log("x")._replace(walltime=walltime)]).startswith("@")


words = st.text(max_size=5) | st.sampled_from(["INFO", "WARNING", "my.module", "a\nb", "\x1b[31m"])
records = st.builds(Event, st.just("log"), st.fixed_dictionaries(dict.fromkeys(("level", "logger", "message"), words)),
                    st.just("log"), st.floats(NOON, NOON + 2), st.just(0))  # fmt: skip


@given(st.lists(records))
def test_each_record_is_formatted_independently(events: list[Event]) -> None:
    """A record's line is its time, level, logger and message, escaped, whatever precedes it."""

    def line_alone(event: Event) -> str:
        time = timestamp(event.walltime, separator=" ")
        message = one_line(f"{event.value['logger']}: {event.value['message']}")
        return f"{time} {one_line(event.value['level']):<8} {message}\n"

    assert format_events(events) == "".join(map(line_alone, events))
