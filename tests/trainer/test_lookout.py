"""A bus that has nothing to do rests, and misses nothing that is recorded then."""

from __future__ import annotations

import random
import threading
import time
from pathlib import Path

import pytest
from reading import read_events, wait_until

import trainwire
from trainwire import bus_thread
from trainwire.lookout import Lookout


def test_a_lookout_calls_once_each_time_that_it_is_told_to_begin() -> None:
    """It calls when something is queued, not again for what is queued later, and not before it is told to begin."""
    queue, called = [0], threading.Semaphore(0)
    lookout = Lookout(queue, 0.001, called.release)
    lookout.start()
    assert not called.acquire(timeout=0.05)
    for _ in range(3):
        queue.clear()
        lookout.begin()
        assert not called.acquire(timeout=0.02)
        queue.append(1)
        assert called.acquire(timeout=10)
        queue.append(2)
        assert not called.acquire(timeout=0.02)
    lookout.stop()
    lookout.join(10)
    assert not lookout.is_alive()


def test_what_is_recorded_while_the_bus_rests_is_published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Records that come at any moment, also while it goes to rest, are in the journal without anything after them."""
    monkeypatch.setattr(bus_thread, "RESTING_POLLS", 1)
    pauses = random.Random(7)
    with trainwire.open_bus(tmp_path, flush_interval=0.002) as bus:
        for step in range(1, 201):
            bus.log({"loss": 0.5}, step=step)
            if step % 20 == 0:
                wait_until(lambda: read_events(tmp_path)[-1].step == step)  # noqa: B023  # it is waited for at once
            time.sleep(pauses.choice([0.0, 0.001, 0.002, 0.003, 0.01]))
        assert bus._thread._lookout.is_alive()
    assert [event.step for event in read_events(tmp_path) if event.type == "scalar"] == [*range(1, 201)]


def test_a_resting_bus_closes_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """To close does not wait for the lookout, however seldom it looks."""
    monkeypatch.setattr(bus_thread, "RESTING_POLLS", 0)
    bus = trainwire.open_bus(tmp_path, flush_interval=3000.0)
    bus.close()
    assert not bus._thread.is_alive()
    assert read_events(tmp_path)[-1].name == "run/finished"
