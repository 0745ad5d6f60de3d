"""Trainers that are killed, stopped, deadlocked or just slow, each watched by an alerts sink that calls a webhook."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from support.reading import read_events, until
from support.receiver import Receiver

from trainwire_protocol.subscription.subscription import Subscription
from trainwire_protocol.subscription.target import Target
from trainwire_sinks.builtin.alerts import Alerts, Options
from trainwire_sinks.runtime.runner import SinkRunner

TRAINER = """
import sys, threading, time, trainwire
folder, steps, seconds, ending = sys.argv[1], int(sys.argv[2]), float(sys.argv[3]), sys.argv[4]
with trainwire.open_bus(folder) as bus:
    for step in range(1, steps + 1):
        bus.log({"train/loss": 1.0}, step=step)
        time.sleep(seconds)
    if ending == "deadlock":
        lock = threading.Lock()
        lock.acquire()
        lock.acquire()
"""

RULES = """
[notifiers.hook]
kind = "webhook"
url = "http://127.0.0.1:{port}/"

[rules.dead]
seconds = {silence}

[rules.stalled]
at_least = 2
factor = 10

[rules.finished]

[rules.failed]
"""
SILENCE = 3.0
BUSY = "stalled"
"""What is told on a busy machine as well, of a training that does not get its turn for two seconds."""


@contextmanager
def trainer(folder: Path, steps: int, seconds: float, ending: str = "end") -> Iterator[subprocess.Popen[bytes]]:
    """A training of so many steps; killed at the end."""
    process = subprocess.Popen([sys.executable, "-c", TRAINER, str(folder), str(steps), str(seconds), ending])
    try:
        yield process
    finally:
        process.kill()
        process.wait()


@dataclass
class Case:
    """A run, its sink, and what was told."""

    folder: Path
    receiver: Receiver
    silence: float = SILENCE
    took: float = 0.0
    """Seconds from what went wrong to its alert."""

    def alerts(self, but: str = "") -> list[dict[str, Any]]:
        """What is in the file, but for one rule's."""
        path = self.folder / "alerts.jsonl"
        alerts = [json.loads(line) for line in path.read_bytes().split(b"\n")[:-1]] if path.exists() else []
        return [alert for alert in alerts if alert["rule"] != but]

    def words(self, but: str = "") -> list[str]:
        """Rule and state of each of these alerts."""
        return [f"{alert['rule']} {alert['state']}" for alert in self.alerts(but)]

    def told(self) -> list[str]:
        """What the webhook is to be told for each alert in the file."""
        return [f"{alert['id']}/{alert['state']}" for alert in self.alerts()]

    def is_well_again(self) -> bool:
        """Whether all that fired has cleared, and the webhook knows."""
        states = [alert["state"] for alert in self.alerts()]
        return states.count("fired") == states.count("cleared") and set(self.told()) <= set(self.receiver.tried)

    def has_trained(self) -> bool:
        """Whether there are some steps."""
        return sum(event.name == "train/loss" for event in read_events(self.folder)) >= 10

    def sink(self) -> SinkRunner:
        """The sink."""
        rules = self.folder.with_suffix(".toml")
        rules.write_text(RULES.format(port=self.receiver.port, silence=self.silence))
        target = Target(self.folder)
        return SinkRunner(
            lambda: Alerts(Options(rules=rules)), lambda cursor, _: Subscription(target, cursor=cursor), self.folder
        )

    async def see(self, word: str) -> None:
        """Wait until there is such an alert."""
        began = time.monotonic()
        await until(lambda: word in self.words())
        self.took = time.monotonic() - began


async def killed(case: Case) -> None:
    """kill -9; then the run goes on in another process."""
    with trainer(case.folder, 10**6, 0.02) as process:
        watching = asyncio.create_task(case.sink().run())
        await until(case.has_trained)
        process.kill()
        await case.see("dead fired")
        await watching
    with trainer(case.folder, 3, 0.02) as process:
        await asyncio.to_thread(process.wait)
    await case.sink().run()


async def stopped(case: Case) -> None:
    """SIGSTOP, and later SIGCONT; then a sink that is started again."""
    with trainer(case.folder, 10**6, 0.02) as process:
        sink = case.sink()
        watching = asyncio.create_task(sink.run())
        await until(case.has_trained)
        os.kill(process.pid, signal.SIGSTOP)
        await case.see("dead fired")
        sink.stop()
        await watching
        sink = case.sink()
        watching = asyncio.create_task(sink.run())
        await asyncio.sleep(1.5)  # time to tell what is not to be told
        os.kill(process.pid, signal.SIGCONT)
        await until(case.is_well_again)
        sink.stop()
        await watching


async def deadlocked(case: Case) -> None:
    """The training thread waits for itself; the bus goes on."""
    with trainer(case.folder, 30, 0.02, "deadlock"):
        sink = case.sink()
        watching = asyncio.create_task(sink.run())
        await until(case.has_trained)
        await case.see("stalled fired")
        await asyncio.sleep(1.5)  # time to tell what is not to be told
        sink.stop()
        await watching


async def slow(case: Case) -> None:
    """Steps that take longer than the others' deadlocks were waited for, but for their usual time."""
    with trainer(case.folder, 6, 0.8):
        await case.sink().run()


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[dict[str, Case], Receiver]]:
    """All of them at once, and who was called."""
    folder = tmp_path_factory.mktemp("alerts")

    def key_of(body: dict[str, Any]) -> str:
        return f"{body['id']}/{body['state']}"

    async def run(receiver: Receiver) -> dict[str, Case]:
        found = {each.__name__: Case(folder / each.__name__, receiver) for each in (killed, stopped, deadlocked, slow)}
        found["slow"].silence = 20.0
        jobs = [each(found[each.__name__]) for each in (killed, stopped, deadlocked, slow)]
        await asyncio.wait_for(asyncio.gather(*jobs), 50)
        return found

    with Receiver(read=key_of) as receiver:
        found = asyncio.run(run(receiver))
        for name, case in found.items():
            print(f"{name}: told after {case.took:.1f} s")
        yield found, receiver


Cases = tuple[dict[str, Case], Receiver]


def test_a_killed_trainer_is_dead(cases: Cases) -> None:
    """It is told at once, as its process is gone, and clears when the run is resumed."""
    case = cases[0]["killed"]
    assert case.words(but=BUSY) == ["dead fired", "dead cleared", "finished fired"]
    assert case.alerts(but=BUSY)[0]["details"] == {"why": "its process is gone and did not report its end"}


def test_a_stopped_trainer_is_dead_until_it_goes_on(cases: Cases) -> None:
    """It is told when nothing was heard for so long, once, also by a sink started again; and clears when it goes on."""
    case = cases[0]["stopped"]
    assert case.words(but=BUSY) == ["dead fired", "dead cleared"]
    assert case.alerts(but=BUSY)[0]["details"] == {"why": "no sign of life for 3 s"}
    assert case.took > SILENCE - 1.5


def test_a_deadlocked_trainer_is_stalled(cases: Cases) -> None:
    """It is told when no step came for much longer than usual; it is not dead, as its heartbeats go on."""
    case = cases[0]["deadlocked"]
    assert case.words() == ["stalled fired"]
    assert case.alerts()[0]["details"]["idle"] >= 2


def test_a_healthy_slow_trainer_raises_nothing(cases: Cases) -> None:
    """Only its end is told."""
    assert cases[0]["slow"].words() == ["finished fired"]


def test_each_alert_was_told_once(cases: Cases) -> None:
    """The webhook was called once for each line of the files."""
    found, receiver = cases
    assert sorted(receiver.tried) == sorted(key for case in found.values() for key in case.told())
