"""An event about an earlier step does not move the last step of a run back."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest
from support.run_reader import read_batches, read_events

import trainwire
from trainwire_protocol.journal.attempts import find_end
from trainwire_protocol.journal.run_folder import list_attempts
from trainwire_sinks.builtin.prometheus import Values
from trainwire_sinks.inspect.overview import read_overview
from trainwire_sinks.monitor.view import View

EVALUATES_AN_OLD_MODEL = """
import os, signal, sys
import trainwire

bus = trainwire.open_bus(sys.argv[1])
for step in range(1, 127):
    bus.log({"train/loss": 1 / step}, step=step)
bus.lifecycle("evaluation/finished", step=50, split="test", metrics={"test/accuracy": 0.9})
bus.image("sample", [[0, 255]], step=40)
assert bus.wait_until_journaled(bus.state_dict(), 10)
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture
def killed(tmp_path: Path) -> Path:
    """Return the folder of a run that was killed at step 126, after it had recorded events about earlier steps."""
    command = [sys.executable, "-c", EVALUATES_AN_OLD_MODEL, str(tmp_path)]
    assert subprocess.run(command, check=False, timeout=120).returncode == -signal.SIGKILL
    return tmp_path


def shown_steps(folder: Path) -> dict[str, int | None]:
    """Return the last step of a run, by where it is shown."""
    view, values = View("a"), Values(0, 100)
    for batch in read_batches(folder):
        view.add_batch(batch)
        values.update(batch.header.run, batch.events)
    overview = read_overview(folder)
    return {
        "runs": overview.step, "ranks": overview.ranks[0].step, "watch": view.step,
        "prometheus": int(values.state()["facts"]["step"]),
    }  # fmt: skip


def test_a_killed_run_shows_its_largest_step(killed: Path) -> None:
    """Every view shows step 126, and what is added to the run begins there."""
    assert set(shown_steps(killed).values()) == {126}
    end = find_end(list_attempts(killed, 0))
    assert end is not None
    assert end.step == 126
    with trainwire.open_bus(killed, append=True) as bus:
        assert bus.describe()["step"] == 126
    assert set(shown_steps(killed).values()) == {126}


def test_a_heartbeat_reports_the_largest_step(tmp_path: Path) -> None:
    """Events without a step get the largest one too, and so does the state for a checkpoint."""
    with trainwire.open_bus(tmp_path) as bus:
        bus.log({"train/loss": 0.5}, step=126)
        bus.log({"old/accuracy": 0.25}, step=50)
        assert bus.describe()["step"] == bus.state_dict()["step"] == 126
        bus.log({"train/loss": 0.4})
    assert [event.step for event in read_events(tmp_path) if event.type == "scalar"] == [126, 50, 126]


def test_an_attempt_that_resumes_earlier_shows_its_own_steps(tmp_path: Path) -> None:
    """What is superseded does not count: a run that resumed from step 10 of 126 is at step 11."""
    with trainwire.open_bus(tmp_path) as bus:
        bus.log({"train/loss": 0.5}, step=10)
        state = bus.state_dict()
        bus.log({"train/loss": 0.4}, step=126)
    with trainwire.open_bus(tmp_path, state=state) as bus:
        bus.log({"train/loss": 0.3}, step=11)
    assert set(shown_steps(tmp_path).values()) == {11}
