"""Trainers that are killed, stopped, deadlocked or slow, each with an alerts sink that calls a webhook."""

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
from support.receiver import Receiver
from support.run_reader import read_events, until

from trainwire_protocol.subscription.subscription import Subscription
from trainwire_protocol.subscription.target import Target
from trainwire_sinks.builtin.alerts import Alerts, Options
from trainwire_sinks.runtime.runner import SinkRunner

pytestmark = pytest.mark.timeout(180)

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
SPURIOUS = "stalled"
"""A rule that may also fire on a busy machine, if a training is not scheduled for two seconds."""


@contextmanager
def trainer(folder: Path, steps: int, seconds: float, ending: str = "end") -> Iterator[subprocess.Popen[bytes]]:
    """Run a training of `steps` steps, and kill it at the end of the context."""
    process = subprocess.Popen([sys.executable, "-c", TRAINER, str(folder), str(steps), str(seconds), ending])
    try:
        yield process
    finally:
        process.kill()
        process.wait()


@dataclass
class Case:
    """A run with its sink and the alerts about it."""

    folder: Path
    receiver: Receiver
    silence: float = SILENCE
    delay: float = 0.0
    """Seconds from the failure to its alert."""

    def alerts(self, without: str = "") -> list[dict[str, Any]]:
        """Return the alerts in the file, without those of one rule."""
        path = self.folder / "alerts.jsonl"
        alerts = [json.loads(line) for line in path.read_bytes().split(b"\n")[:-1]] if path.exists() else []
        return [alert for alert in alerts if alert["rule"] != without]

    def states(self, without: str = "") -> list[str]:
        """Return the rule and state of each alert."""
        return [f"{alert['rule']} {alert['state']}" for alert in self.alerts(without)]

    def alert_keys(self) -> list[str]:
        """Return the key of each alert in the file."""
        return [f"{alert['id']}/{alert['state']}" for alert in self.alerts()]

    def momentary_keys(self) -> set[str]:
        """Return the keys of spurious alerts that have cleared; within a second, only that is sent."""
        cleared = {alert["id"] for alert in self.alerts() if (alert["rule"], alert["state"]) == (SPURIOUS, "cleared")}
        return {f"{identity}/fired" for identity in cleared}

    def has_recovered(self) -> bool:
        """Return whether all alerts have cleared and the webhook has received them."""
        states = [alert["state"] for alert in self.alerts()]
        return states.count("fired") == states.count("cleared") and self.unsent_keys() <= self.momentary_keys()

    def unsent_keys(self) -> set[str]:
        """Return the keys that the webhook has not received."""
        return set(self.alert_keys()) - set(self.receiver.tried)

    def has_trained(self) -> bool:
        """Return whether ten steps were recorded."""
        return sum(event.name == "train/loss" for event in read_events(self.folder)) >= 10

    def sink(self) -> SinkRunner:
        """Return the runner of the alerts sink."""
        rules = self.folder.with_suffix(".toml")
        rules.write_text(RULES.format(port=self.receiver.port, silence=self.silence))
        target = Target(self.folder)
        return SinkRunner(
            lambda: Alerts(Options(rules=rules)), lambda cursor, _: Subscription(target, cursor=cursor), self.folder
        )

    async def wait_for(self, state: str) -> None:
        """Wait for an alert of this rule and state, and measure the delay."""
        began = time.monotonic()
        await until(lambda: state in self.states())
        self.delay = time.monotonic() - began


async def killed(case: Case) -> None:
    """Kill the trainer with SIGKILL, then resume the run in another process."""
    with trainer(case.folder, 10**6, 0.02) as process:
        watching = asyncio.create_task(case.sink().run())
        await until(case.has_trained)
        process.kill()
        await case.wait_for("dead fired")
        await watching
    with trainer(case.folder, 3, 0.02) as process:
        await asyncio.to_thread(process.wait)
    await case.sink().run()


async def stopped(case: Case) -> None:
    """Stop the trainer with SIGSTOP, restart the sink, and continue the trainer with SIGCONT."""
    with trainer(case.folder, 10**6, 0.02) as process:
        sink = case.sink()
        watching = asyncio.create_task(sink.run())
        await until(case.has_trained)
        os.kill(process.pid, signal.SIGSTOP)
        await case.wait_for("dead fired")
        sink.stop()
        await watching
        sink = case.sink()
        watching = asyncio.create_task(sink.run())
        await asyncio.sleep(1.5)  # time for alerts that must not be sent
        os.kill(process.pid, signal.SIGCONT)
        await until(case.has_recovered)
        sink.stop()
        await watching


async def deadlocked(case: Case) -> None:
    """Block the training thread on its own lock while the bus continues."""
    with trainer(case.folder, 30, 0.02, "deadlock"):
        sink = case.sink()
        watching = asyncio.create_task(sink.run())
        await until(case.has_trained)
        await case.wait_for("stalled fired")
        await asyncio.sleep(1.5)  # time for alerts that must not be sent
        sink.stop()
        await watching


async def slow(case: Case) -> None:
    """Train with steps that always take long."""
    with trainer(case.folder, 6, 0.8):
        await case.sink().run()


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[dict[str, Case], Receiver]]:
    """Run all cases at once, with one webhook receiver."""
    folder = tmp_path_factory.mktemp("alerts")

    def key_of(body: dict[str, Any]) -> str:
        return f"{body['id']}/{body['state']}"

    async def run(receiver: Receiver) -> dict[str, Case]:
        found = {each.__name__: Case(folder / each.__name__, receiver) for each in (killed, stopped, deadlocked, slow)}
        found["slow"].silence = 20.0
        jobs = [each(found[each.__name__]) for each in (killed, stopped, deadlocked, slow)]
        try:
            await asyncio.wait_for(asyncio.gather(*jobs), 110)
        except TimeoutError:
            for name, case in found.items():
                print(f"{name}: {case.states()}; not sent: {case.unsent_keys()}")
            raise
        return found

    with Receiver(read=key_of) as receiver:
        found = asyncio.run(run(receiver))
        for name, case in found.items():
            print(f"{name}: sent after {case.delay:.1f} s")
        yield found, receiver


Cases = tuple[dict[str, Case], Receiver]


def test_a_killed_trainer_is_dead(cases: Cases) -> None:
    """The alert fires at once, since the process is gone, and clears when the run is resumed."""
    case = cases[0]["killed"]
    assert case.states(without=SPURIOUS) == ["dead fired", "dead cleared", "finished fired"]
    assert case.alerts(without=SPURIOUS)[0]["details"] == {"why": "its process is gone and did not report its end"}


def test_a_stopped_trainer_is_dead_until_it_continues(cases: Cases) -> None:
    """The alert fires once after the silence, also if the sink is restarted, and clears when the trainer continues."""
    case = cases[0]["stopped"]
    assert case.states(without=SPURIOUS) == ["dead fired", "dead cleared"]
    assert case.alerts(without=SPURIOUS)[0]["details"] == {"why": "no sign of life for 3 s"}
    assert case.delay > SILENCE - 1.5


def test_a_deadlocked_trainer_is_stalled(cases: Cases) -> None:
    """A trainer without steps is stalled; it is not dead, since its heartbeats continue."""
    case = cases[0]["deadlocked"]
    assert case.states() == ["stalled fired"]
    assert case.alerts()[0]["details"]["idle"] >= 2


def test_a_slow_trainer_is_not_stalled(cases: Cases) -> None:
    """The only alert is that the run has finished."""
    assert cases[0]["slow"].states() == ["finished fired"]


def test_each_alert_was_sent_once(cases: Cases) -> None:
    """The webhook received one request for each line of the files, except for momentary alerts."""
    found, receiver = cases
    keys = {key for case in found.values() for key in case.alert_keys()}
    momentary = {key for case in found.values() for key in case.momentary_keys()}
    assert keys - momentary <= set(receiver.tried) <= keys
    assert len(receiver.tried) == len(set(receiver.tried))
