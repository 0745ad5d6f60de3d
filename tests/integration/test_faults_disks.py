"""Full, frozen and read-only disks under the journal and under a sink's output."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from support.disks import freezable_disk, read_only, small_disk
from support.run_reader import read_events, wait_until

import trainwire
from trainwire_protocol.errors import OutputError, UsageError
from trainwire_protocol.journal.verification import verify_run
from trainwire_sinks import Event
from trainwire_sinks.builtin.jsonl import JsonLines
from trainwire_sinks.cli import app
from trainwire_sinks.runtime.exit_codes import ExitCode
from trainwire_sinks.runtime.retry import RetryPolicy
from trainwire_sinks.runtime.runner import SinkRunner
from trainwire_sinks.testing.check_sink import Recording, record, run_sink

EVENTS = [
    [Event("train/loss", float(n), "scalar", 0.0, n) for n in range(first, first + 100)]
    for first in range(0, 2000, 100)
]


def run_jsonl(output: Path, retry_policy: RetryPolicy) -> None:
    batches = record(EVENTS)

    def subscribe(cursor: object, skip: bool) -> Recording:
        return Recording(batch for batch in batches if batch.cursor > cursor)

    asyncio.run(SinkRunner(JsonLines, subscribe, output, commit_interval=0, retry_policy=retry_policy).run())


def expected_lines(tmp_path: Path) -> bytes:
    run_sink(JsonLines, tmp_path / "whole", record(EVENTS))
    return (tmp_path / "whole" / "events.jsonl").read_bytes()


def test_a_sink_retries_until_its_disk_has_space(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A sink whose disk is full retries from its last commit; once there is space, it writes the same bytes."""
    with small_disk(tmp_path / "disk", 256) as disk:
        ballast = disk / "ballast"
        ballast.write_bytes(bytes(150 << 10))
        sink = threading.Thread(target=run_jsonl, args=(disk, RetryPolicy(retries=1000, first_delay=0.001)))
        sink.start()
        wait_until(lambda: "No space left on device" in caplog.text)
        ballast.unlink()
        sink.join(30)
        assert (disk / "events.jsonl").read_bytes() == expected_lines(tmp_path)


def test_a_sink_whose_disk_stays_full_ends_and_can_be_restarted(tmp_path: Path) -> None:
    """The sink raises an error that states the reason; restarted when there is space, it continues from its cursor."""
    with small_disk(tmp_path / "disk", 256) as disk:
        ballast = disk / "ballast"
        ballast.write_bytes(bytes(150 << 10))
        with pytest.raises(OutputError, match="No space left on device"):
            run_jsonl(disk, RetryPolicy(retries=2, first_delay=0.001))
        ballast.unlink()
        run_jsonl(disk, RetryPolicy(retries=0))
        assert (disk / "events.jsonl").read_bytes() == expected_lines(tmp_path)


def log_until(bus: trainwire.EventBus, condition: Callable[[], bool]) -> int:
    """Log steps until a condition holds, and return the last one."""
    step = 0
    deadline = time.monotonic() + 20
    while not condition():
        step += 1
        bus.log({"train/loss": float(step)}, step=step)
        assert time.monotonic() < deadline, "the condition was not met in time"
        threading.Event().wait(0.0005)
    return step


def steps(folder: Path) -> list[int]:
    return [event.step for event in read_events(folder) if event.name == "train/loss"]


def test_a_full_disk_under_the_journal(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A bus on a full file system keeps recording, and journals everything once there is space."""
    with small_disk(tmp_path / "disk", 256) as disk:
        ballast = disk / "ballast"
        ballast.write_bytes(bytes(200 << 10))
        with trainwire.open_bus(disk / "run") as bus:
            last = log_until(bus, lambda: "cannot be written: No space left" in caplog.text)
            for step in range(last + 1, last + 1001):
                bus.log({"train/loss": float(step)}, step=step)
            wait_until(lambda: not bus._queue.records)
            ballast.unlink()
        assert steps(disk / "run") == list(range(1, last + 1001))
        assert all(report.is_whole and report.ending for report in verify_run(disk / "run"))


@pytest.mark.timeout(180)
def test_a_frozen_disk_under_the_journal(tmp_path: Path) -> None:
    """While writes hang, the bus keeps recording; when they continue, everything is journaled in order."""
    with freezable_disk(tmp_path / "disk") as disk:
        folder = disk.place / "run"
        with trainwire.open_bus(folder) as bus:
            wait_until(lambda: read_events(folder))
            disk.freeze()
            for step in range(1, 5001):
                bus.log({"train/loss": float(step)}, step=step)
            wait_until(lambda: not bus._queue.records)
            assert not steps(folder)
            disk.thaw()
        assert steps(folder) == list(range(1, 5001))
        assert all(report.is_whole for report in verify_run(folder))


def test_closing_on_a_frozen_disk_is_bounded_in_time(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """`close` returns while the disk is still frozen, and reports which events are lost."""
    with freezable_disk(tmp_path / "disk") as disk:
        bus = trainwire.open_bus(disk.place / "run")
        wait_until(lambda: read_events(disk.place / "run"))
        disk.freeze()
        bus.log({"train/loss": 1.0}, step=1)
        bus.close(timeout=0.1)
        assert "did not accept the last" in caplog.text


@pytest.mark.timeout(180)
def test_a_frozen_disk_under_a_sink(tmp_path: Path) -> None:
    """A sink on a frozen disk does not hold up the trainer, and writes everything once the disk is thawed."""
    with freezable_disk(tmp_path / "disk") as disk, trainwire.open_bus(tmp_path / "run") as bus:
        arguments = ["sink", "jsonl", str(tmp_path / "run"), "--output", str(disk.place)]
        codes: list[int] = []
        sink = threading.Thread(target=lambda: codes.append(run_command(arguments)))
        sink.start()
        wait_until((disk.place / "events.jsonl").exists)
        disk.freeze()
        for step in range(1, 1001):
            bus.log({"train/loss": float(step)}, step=step)
        wait_until(lambda: steps(tmp_path / "run") == list(range(1, 1001)))
        bus.close(timeout=0.1)
        assert not codes
        disk.thaw()
        sink.join(30)
        assert (disk.place / "events.jsonl").read_text().count('"train/loss"') == 1000


def run_command(arguments: list[str]) -> int:
    """Run the `trainwire` command in its own process, and return its exit code."""
    return subprocess.run([sys.executable, "-m", "trainwire_sinks", *arguments], check=False, timeout=120).returncode


def test_a_read_only_run_folder_is_refused(tmp_path: Path) -> None:
    """Opening a bus in a folder that cannot be written raises an error that states the reason."""
    (tmp_path / "run").mkdir()
    with (
        read_only(tmp_path / "run") as folder,
        pytest.raises(UsageError, match=r"cannot be written .Read-only file system"),
    ):
        trainwire.open_bus(folder)


def test_a_read_only_output_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A sink that cannot write exits with the reason; with another output folder it succeeds."""
    trainwire.open_bus(tmp_path / "run").close()
    with read_only(tmp_path / "run") as folder:
        assert app.run(["sink", "jsonl", str(folder)]) == ExitCode.OUTPUT
        assert "Read-only file system" in capsys.readouterr().err
        assert app.run(["sink", "jsonl", str(folder), "--output", str(tmp_path / "out")]) == 0
        assert app.run(["verify", str(folder)]) == 0


def test_a_run_folder_that_becomes_read_only(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """If the run's folder becomes read-only, the bus continues to write to the open segment."""
    with trainwire.open_bus(tmp_path / "run") as bus:
        wait_until(lambda: read_events(tmp_path / "run"))
        with read_only(tmp_path / "run"):
            for step in range(1, 101):
                bus.log({"train/loss": float(step)}, step=step)
            wait_until(lambda: len(steps(tmp_path / "run")) == 100)
    assert steps(tmp_path / "run") == list(range(1, 101))
