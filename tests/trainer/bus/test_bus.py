"""The bus as a training loop uses it: each call is recorded in the journal, and no argument makes it raise."""

from __future__ import annotations

import asyncio
import logging
import math
import signal
import subprocess
import sys
import threading
from collections import Counter
from pathlib import Path

import pytest
from support.run_reader import read_batches, read_events, wait_until

import trainwire
from trainwire.bus.queue import FLOATS, RecordQueue
from trainwire_protocol.errors import RunInUseError, UsageError
from trainwire_protocol.journal.run_folder import list_attempts
from trainwire_protocol.transport.connection import connection_path, read_connection


def scalars(folder: Path) -> list[tuple[str, float, int]]:
    return [(event.name, event.value, event.step) for event in read_events(folder) if event.type == "scalar"]


def test_what_is_logged_is_in_the_journal_in_order(tmp_path: Path) -> None:
    """Scalars keep their names, values, steps and order; the first event begins the run and the last ends it."""
    with trainwire.open_bus(tmp_path / "run", hparams={"lr": 3e-4}) as bus:
        for step in range(1, 501):
            bus.log({"train/loss": 1 / step, "train/accuracy": step}, step=step)
    events = read_events(tmp_path / "run")
    assert events[0].name == "run/started"
    assert (events[1].name, events[1].value) == ("hparams", {"lr": 3e-4})
    assert scalars(tmp_path / "run") == [
        row for step in range(1, 501) for row in (("train/loss", 1 / step, step), ("train/accuracy", step, step))
    ]
    assert (events[-1].name, events[-1].value["last_seq"]) == ("run/finished", len(events) - 1)


def test_a_step_left_out_is_the_last_one(tmp_path: Path) -> None:
    """An event recorded without a step has the last step that was passed."""
    with trainwire.open_bus(tmp_path) as bus:
        bus.log({"a": 1.0})
        bus.log({"a": 2.0}, step=7)
        bus.log({"a": 3.0})
        bus.text("note", "hello")
    assert scalars(tmp_path) == [("a", 1.0, 0), ("a", 2.0, 7), ("a", 3.0, 7)]
    assert [event.step for event in read_events(tmp_path) if event.type == "text"] == [7]


def test_walltime_is_that_of_the_call(tmp_path: Path) -> None:
    """All scalars of one call share one walltime, and walltimes do not go back."""
    with trainwire.open_bus(tmp_path) as bus:
        for _ in range(10):
            bus.log({"a": 1.0, "b": 2.0})
    times = [event.walltime for event in read_events(tmp_path) if event.type == "scalar"]
    assert times[::2] == times[1::2]
    assert times == sorted(times)


def test_the_mapping_is_copied(tmp_path: Path) -> None:
    """A mapping that is changed after the call does not change what was recorded."""
    metrics = {"a": 1.0}
    with trainwire.open_bus(tmp_path) as bus:
        bus.log(metrics)
        metrics["a"] = 2.0
    assert scalars(tmp_path) == [("a", 1.0, 0)]


def test_every_type_is_recorded(tmp_path: Path) -> None:
    """Each method records an event of its type, on the channel of that type."""
    pixels = [[0.0, 0.5], [1.0, 0.25]]
    with trainwire.open_bus(tmp_path) as bus:
        bus.scalars("learning_rate", [0.1, 0.2])
        bus.scalars("both", {"a": 1, "b": 2.0})
        bus.text("text", "**bold**")
        bus.histogram("histogram", [1.0, 2.0, math.nan])
        bus.image("image", pixels)
        bus.audio("audio", ([0.0, 1.0, -1.0], 8000))
        bus.table("table", [{"x": 1, "y": 2}, {"x": 3}])
        bus.publish("summary", {"format": "summary", "plugin": "mesh", "data": b"x"}, "summary")
        bus.lifecycle("epoch/started", epoch=1)
    events = {event.name: event for event in read_events(tmp_path)}
    assert events["learning_rate"].value == (0.1, 0.2)
    assert events["both"].value == {"a": 1, "b": 2.0}
    assert sum(events["histogram"].value["counts"]) == 2
    assert events["image"].value["data"].startswith(b"\x89PNG")
    assert events["audio"].value["data"].startswith(b"RIFF")
    assert events["table"].value == {"columns": ("x", "y"), "rows": ((1, 2), (3, None))}
    assert events["epoch/started"].value == {"epoch": 1}
    channels = {event.name: batch.header.channel for batch in read_batches(tmp_path) for event in batch.events}
    assert {name for name, channel in channels.items() if channel == "media"} == {"image", "audio", "summary"}


def test_a_walltime_is_recorded_as_given(tmp_path: Path) -> None:
    """An event may have happened at another time; one that is no time is refused."""
    with trainwire.open_bus(tmp_path) as bus:
        for walltime in (0.5, 2**40, math.nan, "now"):
            bus.publish("a", 1.0, "scalar", 1, walltime)  # type: ignore[arg-type]  # the last one is invalid
        assert bus.describe()["step_walltime"] > 1.6e9
    assert [event.walltime for event in read_events(tmp_path) if event.name == "a"] == [0.5, 2**40]
    assert bus.rejections == {"'a'": 2}


def test_a_flush_waits_for_the_journal(tmp_path: Path) -> None:
    """What any thread recorded before a flush is in the journal when it returns, whatever others record meanwhile."""
    stopping = threading.Event()

    def record() -> None:
        while not stopping.wait(1e-5):  # a pause, as a full queue would drop what the test waits for
            bus.log({"noise": 0.5})

    with trainwire.open_bus(tmp_path) as bus:
        thread = threading.Thread(target=record)
        thread.start()
        for step in range(1, 4):
            bus.log({"a": 1.0}, step=step)
            assert bus.flush()
            assert max(event.step for event in read_events(tmp_path) if event.name == "a") == step
        stopping.set()
        thread.join()
    assert bus.flush()


@pytest.mark.parametrize(
    "record",
    [
        lambda bus: bus.log({"": 1.0}),
        lambda bus: bus.log({"a": "text"}),
        lambda bus: bus.log({"a": object()}),
        lambda bus: bus.log({3: 1.0}),
        lambda bus: bus.log(None),
        lambda bus: bus.log({"a": 1.0}, step="seven"),
        lambda bus: bus.log({"x" * 600: 1.0}),
        lambda bus: bus.log({"\ud800": 1.0}),
        lambda bus: bus.publish(["no", "name"], 1, "scalar"),
        lambda bus: bus.publish("a", 1, "table"),
        lambda bus: bus.image("a", "not an image"),
        lambda bus: bus.image("a", b"not an image"),
        lambda bus: bus.image("a", [[0.5], [0.5, 0.5]]),
        lambda bus: bus.audio("a", 3),
        lambda bus: bus.histogram("a", ["x"]),
        lambda bus: bus.table("a", {"columns": ["x"], "rows": [[1, 2]]}),
        lambda bus: bus.hparams(None),
        lambda bus: bus.text("a", 3),
    ],
)
def test_what_cannot_be_recorded_is_reported_once_and_never_raised(tmp_path, caplog, record) -> None:
    """An invalid name, value or step is counted and causes one warning; later events are recorded."""
    with trainwire.open_bus(tmp_path) as bus:
        for _ in range(3):
            record(bus)
        bus.log({"good": 1.0})
    warnings = [line for line in caplog.records if line.levelno == logging.WARNING]
    assert len(warnings) == 1
    assert list(bus.rejections.values()) == [3]
    assert scalars(tmp_path) == [("good", 1.0, 0)]


def test_a_second_mistake_is_reported_after_the_first(tmp_path: Path, caplog) -> None:
    """Each mistake is reported once for each name and reason, however many values show it."""
    with trainwire.open_bus(tmp_path) as bus:
        for number in range(50):
            bus.log(number)  # type: ignore[arg-type]  # the mistake
            bus.log({"a": 1.0}, step=2**64 + number)
            bus.log({"a": 1.0}, step=None if number % 2 else "soon")  # type: ignore[arg-type]  # another one
            bus.log({"b": f"text {number}"})
            bus.log({"b": object()})
            bus.image("picture", [number])
            bus.text("picture", bytes(number))  # type: ignore[arg-type]  # another one
    assert sorted(Counter(caplog.messages).values()) == [1] * len(caplog.messages)
    for part in ("pass a map of names to numbers", "64 bits", "soon", "'text 0'", "object", "image", "text"):
        assert any(part in message for message in caplog.messages), (part, caplog.messages)
    assert len(caplog.messages) == 7
    assert sum(bus.rejections.values()) == 325


def test_integers_that_do_not_fit_and_special_floats_are_values(tmp_path: Path) -> None:
    """NaN and infinities are recorded as they are, and integers past 64 bits as floats."""
    with trainwire.open_bus(tmp_path) as bus:
        bus.log({"nan": math.nan, "inf": math.inf, "big": 2**80, "flag": True})
    values = {name: value for name, value, _ in scalars(tmp_path)}
    assert math.isnan(values.pop("nan"))
    assert values == {"inf": math.inf, "big": float(2**80), "flag": 1}


def test_a_step_that_goes_back_is_reported_once_and_published(tmp_path: Path, caplog) -> None:
    """A step that decreases within a name is recorded as given, with one warning for each name."""
    with trainwire.open_bus(tmp_path) as bus:
        for step in (5, 3, 4, 2):
            bus.log({"a": 1.0}, step=step)
    assert [step for _, _, step in scalars(tmp_path)] == [5, 3, 4, 2]
    assert len([line for line in caplog.records if "decreases to" in line.message]) == 1


def test_logging_records_become_events(tmp_path: Path) -> None:
    """The handler records level, logger, message, source, exception and stack."""
    logger = logging.getLogger("test.bus")
    logger.propagate = False
    with trainwire.open_bus(tmp_path) as bus:
        handler = bus.logging_handler()
        logger.addHandler(handler)
        try:
            logger.warning("careful with %s", "that", stack_info=True)
            try:
                raise ValueError("broken")
            except ValueError:
                logger.exception("failed")
        finally:
            logger.removeHandler(handler)
    logs = [event.value for event in read_events(tmp_path) if event.type == "log"]
    assert (logs[0]["level"], logs[0]["logger"], logs[0]["message"]) == ("WARNING", "test.bus", "careful with that")
    assert logs[0]["source"].startswith("test_bus.py:")
    assert "test_logging_records_become_events" in logs[0]["stack"]
    assert "ValueError: broken" in logs[1]["exception"]
    assert "stack" not in logs[1]


def test_what_the_last_flush_rejects_is_recorded(tmp_path: Path) -> None:
    """A handler of the bus records the message about a value that is rejected while the bus closes."""
    logger = logging.getLogger("trainwire")
    bus = trainwire.open_bus(tmp_path, flush_interval=1000)
    handler = bus.logging_handler()
    logger.addHandler(handler)
    try:
        bus.log({"loss": None}, step=1)
        bus.close()
        logger.warning("after the end")
    finally:
        logger.removeHandler(handler)
    events = read_events(tmp_path)
    assert [(event.name, event.value.get("message", "")[:30]) for event in events[-2:]] == [
        ("log", "not recorded: event 'loss' of "), ("run/finished", "")
    ]  # fmt: skip


def test_watchers_see_every_event_on_a_thread_of_their_own(tmp_path: Path) -> None:
    """An async handler is called with each event in order, neither on the caller's thread nor on the bus's."""
    seen, threads = [], set()

    async def watch(event):
        await asyncio.sleep(0)
        threads.add(threading.current_thread().name)
        seen.append(event)

    with trainwire.open_bus(tmp_path) as bus:
        bus.watch(watch)
        for step in range(100):
            bus.log({"a": float(step)}, step=step)
    assert [event.value for event in seen if event.type == "scalar"] == [float(step) for step in range(100)]
    assert seen[-1].name == "run/finished"
    assert threads == {"trainwire-watch"}


def test_a_watcher_that_fails_is_called_no_more_and_a_plain_function_is_refused(tmp_path: Path, caplog) -> None:
    """An exception of a watcher is logged and ends only that watcher; a function that is not async is refused."""

    async def fails(event):
        raise ValueError("watcher")

    with trainwire.open_bus(tmp_path) as bus:
        with pytest.raises(UsageError, match="async def"):
            bus.watch(print)
        bus.watch(fails)
        bus.log({"a": 1.0})
    assert sum("watcher" in line.message for line in caplog.records) == 1
    assert scalars(tmp_path) == [("a", 1.0, 0)]


def test_the_last_event_records_how_the_run_ended(tmp_path: Path) -> None:
    """Leaving by an exception is failed, by Ctrl-C interrupted; closing again changes nothing."""
    with pytest.raises(ValueError, match="oops"), trainwire.open_bus(tmp_path / "a"):
        raise ValueError("oops")
    with pytest.raises(KeyboardInterrupt), trainwire.open_bus(tmp_path / "b") as bus:
        raise KeyboardInterrupt
    bus.close(status="finished")
    bus.log({"late": 1.0})
    last = read_events(tmp_path / "a")[-1]
    assert (last.name, last.value["reason"]) == ("run/failed", "ValueError: oops")
    assert read_events(tmp_path / "b")[-1].name == "run/interrupted"


def test_opening_again_begins_the_next_attempt_and_supersedes(tmp_path: Path) -> None:
    """Opening a run's folder again starts from nothing, or from the position of a saved state."""
    with trainwire.open_bus(tmp_path) as bus:
        bus.log({"a": 1.0}, step=1)
        state = bus.state_dict()
        assert bus.wait_until_journaled(state, timeout=10)
        bus.log({"a": 2.0}, step=2)
    mark = next(batch for batch in read_batches(tmp_path) if batch.events[-1].name == "run/marked")
    with trainwire.open_bus(tmp_path, state=state) as bus:
        assert bus.attempt == 1
    with trainwire.open_bus(tmp_path) as bus:
        assert bus.attempt == 2
    resumed = [read_events(tmp_path, attempt=attempt)[0] for attempt in (1, 2)]
    assert [event.name for event in resumed] == ["run/resumed", "run/resumed"]
    assert resumed[0].value["from"] == {"attempt": 0, "seq": mark.cursor.seq}
    assert (resumed[0].value["from_step"], resumed[0].step) == (1, 1)
    assert resumed[1].value["from"] is None


def test_a_mark_that_was_not_journaled_is_the_end_of_the_journal(tmp_path: Path) -> None:
    """A state whose mark is not in the journal resumes from the journal's last event."""
    with trainwire.open_bus(tmp_path) as bus:
        bus.log({"a": 1.0}, step=1)
    state = {"run": bus.run, "attempt": 0, "mark": 9, "step": 1}
    with trainwire.open_bus(tmp_path, state=state):
        pass
    last = read_batches(tmp_path, attempt=0)[-1].cursor.seq
    assert read_events(tmp_path, attempt=1)[0].value["from"] == {"attempt": 0, "seq": last}


def test_a_state_of_another_run_is_refused(tmp_path: Path) -> None:
    """A state of another run, attempt or mark is refused."""
    with trainwire.open_bus(tmp_path / "a") as bus:
        state = bus.state_dict()
    with trainwire.open_bus(tmp_path / "b"):
        pass
    with pytest.raises(UsageError, match="the state belongs to run"):
        trainwire.open_bus(tmp_path / "b", state=state)


def test_a_second_trainer_on_a_run_is_refused(tmp_path: Path) -> None:
    """While one bus is open, another on the same folder is refused with what holds it; take_over opens it anyway."""
    with trainwire.open_bus(tmp_path):
        with pytest.raises(RunInUseError, match="which is this one, is recording attempt 0"):
            trainwire.open_bus(tmp_path)
        with trainwire.open_bus(tmp_path, take_over=True) as second:
            assert second.attempt == 1


def test_a_folder_that_cannot_be_written_is_one_clear_error(tmp_path: Path) -> None:
    """A folder that cannot be written is reported with advice."""
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="cannot be written"):
        trainwire.open_bus(tmp_path / "file" / "run")


def test_a_full_queue_drops_scalars_counts_them_and_keeps_lifecycle() -> None:
    """A full queue accepts only lifecycle events, and counts what it drops."""
    queue = RecordQueue(max_values=10)
    for step in range(30):
        queue.append("", {"a": 1.0}, FLOATS, step)
    queue.append("epoch/finished", {}, "lifecycle", 30)
    assert (len(queue.records), queue.dropped) == (11, 20)
    assert queue.records[-1][0] == "epoch/finished"


def test_progress_is_what_was_recorded_with_a_step(tmp_path: Path) -> None:
    """Records without a step, as other threads make them, do not count as progress of the training."""
    with trainwire.open_bus(tmp_path) as bus:
        bus.log({"a": 1.0}, step=3)
        before = bus.describe()
        bus.log({"cpu": 1.0})
        bus.text("note", "hello")
        assert bus.describe() == before
        bus.log({"a": 1.0}, step=4)
        assert bus.describe()["step_walltime"] > before["step_walltime"]
        assert bus.describe()["step"] == 4


def test_drops_are_published_and_logged_once(tmp_path: Path, caplog) -> None:
    """An `events/dropped` event reports what the queue dropped, and so do the log, once, and the bus's counts."""
    with trainwire.open_bus(tmp_path) as bus:
        bus._queue._max_values = 0
        bus._queue.reset_limits()
        bus.log({"a": 1.0, "b": 2.0})
        wait_until(lambda: any(event.name == "events/dropped" for event in read_events(tmp_path)))
        bus.log({"c": 3.0})
    counts = [event.value["count"] for event in read_events(tmp_path) if event.name == "events/dropped"]
    assert counts[0] == 2
    assert sum(counts) == bus.rejections["queue full"] == 3
    (message,) = [message for message in caplog.messages if "dropped" in message]
    assert "record fewer at a time" in message


def test_the_connection_file_names_the_sockets(tmp_path: Path) -> None:
    """The connection file exists when open_bus returns, for its owner only; its sockets exist until close."""
    with trainwire.open_bus(tmp_path) as bus:
        path = connection_path(tmp_path, 0)
        connection = read_connection(path)
        assert path.stat().st_mode & 0o777 == 0o600
        assert (connection.run, connection.session, connection.is_reachable()) == (bus.run, bus.session, True)
        sockets = Path(connection.publish.removeprefix("ipc://"))
        assert sockets.parent.stat().st_mode & 0o777 == 0o700
    assert not sockets.parent.exists()
    assert not list_attempts(tmp_path, 0)[0].is_held()


def test_a_fork_is_inert_and_says_so(tmp_path: Path) -> None:
    """A forked child records nothing, does not hang at its exit, and its parent's run stays whole."""
    script = f"""
import os, trainwire
bus = trainwire.open_bus({str(tmp_path)!r})
bus.log({{"a": 1.0}}, step=1)
child = os.fork()
if not child:
    bus.log({{"child": 1.0}}, step=2)
    bus.close()
    raise SystemExit(0)
assert os.waitpid(child, 0)[1] == 0
bus.log({{"a": 2.0}}, step=3)
bus.close(timeout=20)
"""
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120, check=True)
    assert "nothing is recorded in this forked process" in ended.stderr
    assert scalars(tmp_path) == [("a", 1.0, 1), ("a", 2.0, 3)]
    assert read_events(tmp_path)[-1].name == "run/finished"


def test_what_was_journaled_survives_a_kill(tmp_path: Path) -> None:
    """After kill -9 the journal holds the beginning of what was recorded, and the next attempt opens at once."""
    script = f"""
import itertools, trainwire
bus = trainwire.open_bus({str(tmp_path)!r})
for step in itertools.count(1):
    bus.log({{"a": float(step)}}, step=step)
    if step % 1000 == 0: print(step, flush=True)
"""
    process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    while int(process.stdout.readline()) < 20_000:
        pass
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    steps = [step for _, _, step in scalars(tmp_path)]
    assert steps == list(range(1, len(steps) + 1))
    with trainwire.open_bus(tmp_path) as bus:
        assert bus.attempt == 1


def test_the_bus_needs_no_torch(tmp_path: Path) -> None:
    """Opening a bus and logging imports neither torch nor numpy, nor does `dir`."""
    script = (
        f"import sys, trainwire\nwith trainwire.open_bus({str(tmp_path)!r}) as bus: bus.log({{'a': 1.0}})\n"
        "assert dir(trainwire) == sorted([*trainwire.__all__, '__version__'])\n"
        "assert not {'torch', 'numpy'} & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", script], timeout=120, check=True)


def test_a_pointer_for_launch_is_written(tmp_path: Path, monkeypatch) -> None:
    """A bus writes a pointer to its run into the folder in TRAINWIRE_RENDEZVOUS."""
    meeting = tmp_path / "meeting"
    meeting.mkdir()
    monkeypatch.setenv("TRAINWIRE_RENDEZVOUS", str(meeting))
    with trainwire.open_bus(tmp_path / "run") as bus:
        assert (meeting / f"{bus.session}.json").read_text() == f'{{"folder": "{tmp_path / "run"}", "rank": 0}}'
