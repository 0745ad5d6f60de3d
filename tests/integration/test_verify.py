"""`trainwire verify` on live, killed and resumed runs, and on runs with dropped events."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from support.run_reader import read_events, wait_until

import trainwire
from trainwire_protocol.journal.run_folder import list_attempts
from trainwire_sinks.cli.app import run

TRAINER = """
import os, sys, trainwire
bus = trainwire.open_bus(sys.argv[1])
for step in range(1, 1001):
    bus.log({"a": float(step)}, step=step)
    assert step % 500 or bus.wait_until_journaled(bus.state_dict(), 20)
print("journaled", flush=True)
sys.stdin.read()
"""


def verify(folder: Path, capsys: pytest.CaptureFixture[str]) -> tuple[int, dict[str, Any]]:
    capsys.readouterr()
    code = run(["verify", str(folder), "--json"])
    return code, json.loads(capsys.readouterr().out)


def test_a_live_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """While a trainer records, its journal is intact and its attempt still running; afterwards it has ended."""
    with trainwire.open_bus(tmp_path) as bus:
        bus.log({"a": 1.0}, step=1)
        wait_until(lambda: len(read_events(tmp_path)) == 2)
        code, report = verify(tmp_path, capsys)
        assert (code, report["attempts"][0]["is_live"], report["attempts"][0]["events"]) == (0, True, 2)
        run(["verify", str(tmp_path)])
        assert "attempt 0: 2 events, still running" in capsys.readouterr().out
    code, report = verify(tmp_path, capsys)
    assert (code, report["attempts"][0]["ending"]) == (0, "run/finished")


def test_a_killed_and_resumed_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The journal of a killed trainer is intact up to a torn last record, also after the run is resumed."""
    trainer = subprocess.Popen(
        [sys.executable, "-c", TRAINER, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    with trainer:
        assert trainer.stdout is not None
        assert trainer.stdout.readline() == b"journaled\n"
        trainer.send_signal(signal.SIGKILL)
    (segment,) = list_attempts(tmp_path, 0)[0].folder.glob("*.journal")
    os.truncate(segment, segment.stat().st_size - 3)
    code, report = verify(tmp_path, capsys)
    (attempt,) = report["attempts"]
    assert (code, attempt["is_live"], attempt["ending"], attempt["missing"]) == (0, False, None, [])
    assert attempt["torn_bytes"] > 0
    trainwire.open_bus(tmp_path).close()
    code, report = verify(tmp_path, capsys)
    assert (code, len(report["attempts"])) == (0, 2)
    assert report["attempts"][0]["superseded"] == [0, attempt["head"]]


def test_dropped_events_are_reported(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The number of events that a full queue has dropped is in the journal, and `verify` reports it."""
    bus = trainwire.open_bus(tmp_path, flush_interval=0.2)
    monkeypatch.setattr(bus._queue, "_max_values", 10)
    bus._queue.reset_limits()
    for step in range(1, 101):
        bus.log({"a": 1.0}, step=step)
    dropped = bus.describe()["dropped"]
    bus.close(timeout=5)
    code, report = verify(tmp_path, capsys)
    assert dropped > 0
    assert (code, report["attempts"][0]["dropped"]) == (6, dropped)
