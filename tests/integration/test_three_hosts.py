"""A trainer, a relay and sinks on three hosts whose connections are interrupted."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import quantiles
from typing import Final

import pytest
from support.hosts import Host, network, why_not
from support.run_reader import journal_bytes, read_events, wait_until

from trainwire_protocol.journal.verification import verify_run
from trainwire_protocol.transport.connection import connection_path

CUT_SECONDS: Final = float(os.environ.get("CUT_SECONDS", "4"))
"""Duration of the interruption; a minute in `make cut`."""

TRAINER: Final = """
import sys, threading, time, trainwire
ended = threading.Event()
threading.Thread(target=lambda: (sys.stdin.read(), ended.set()), daemon=True).start()
with trainwire.open_bus(sys.argv[1], bind=sys.argv[2]) as bus:
    step, taken = 0, 0.0
    while not ended.is_set():
        step += 1
        begun = time.perf_counter()
        sum(range(20_000))
        bus.log({"train/loss": float(step), "step/seconds": taken}, step=step)
        taken = time.perf_counter() - begun
        if step % 500 == 0:
            bus.lifecycle("epoch/finished", epoch=step // 500)
        ended.wait(0.002)
    bus.close(timeout=20)
"""


@contextmanager
def running(host: Host, *command: object, **options: object) -> Iterator[subprocess.Popen[str]]:
    """Run a process on a host, and kill it at the end of the context."""
    process = subprocess.Popen(host.command(command), text=True, **options)  # type: ignore[call-overload]
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def copy_connection(connection: Path, to: Path) -> Path:
    """Copy a connection file to a new folder: all that another host knows of the run."""
    wait_until(connection.exists, 20)
    to.mkdir()
    return Path(shutil.copy(connection, to / "connection.json"))


def print_durations(folder: Path, times: Sequence[float]) -> None:
    """Print the duration of steps before, during and after the interruption, and when relay and sink caught up."""
    names = ("before", "during the interruption", "after")
    found: dict[str, list[float]] = {name: [] for name in names}
    for event in read_events(folder):
        if event.name == "step/seconds":
            found[names[sum(event.walltime > moment for moment in times[:2])]].append(event.value * 1e6)
    for name, steps in found.items():
        permille = quantiles(steps, n=1000)
        print(f"\n{name}: {len(steps)} steps, median {permille[499]:.0f} us, 99 % {permille[989]:.0f} us", end="")
    relayed, written = (moment - times[1] for moment in times[2:])
    print(f"\nafter the interruption: the relay caught up in {relayed:.1f} s, the sink in {written:.1f} s")


@pytest.mark.timeout(120 + 4 * CUT_SECONDS)
def test_connections_that_are_interrupted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The trainer continues during an interruption; the relay's copy and the sinks' files are complete afterwards."""
    if reason := why_not():
        pytest.skip(reason)
    with network() as hosts, ExitStack() as processes:
        node, login, laptop = (hosts.add(name) for name in ("node", "login", "laptop"))
        cables = [hosts.connect(node, login), hosts.connect(login, laptop)]
        bind = f"tcp://{node.addresses['login']}:0"
        trainer = processes.enter_context(
            running(node, sys.executable, "-c", TRAINER, tmp_path / "run", bind, stdin=subprocess.PIPE)
        )
        known = copy_connection(connection_path(tmp_path / "run", 0), tmp_path / "known")
        run = json.loads(known.read_text())["run"]
        trainwire = [sys.executable, "-m", "trainwire_sinks"]
        bind, copy = f"tcp://{login.addresses['laptop']}:0", tmp_path / "copies" / run
        processes.enter_context(
            running(login, *trainwire, "relay", known, "--output", tmp_path / "copies", "--bind", bind)
        )
        far = copy_connection(connection_path(copy, 0), tmp_path / "far")
        sinks = [
            processes.enter_context(running(laptop, *trainwire, "sink", name, far, "--output", tmp_path / name))
            for name in ("jsonl", "loss-file")
        ]
        lines = tmp_path / "jsonl" / "events.jsonl"
        wait_until(lambda: lines.exists() and b"train/loss" in lines.read_bytes(), 30)

        times = [time.time()]
        for cable in cables:
            cable.pull()
        size = len(journal_bytes(tmp_path / "run"))
        time.sleep(CUT_SECONDS)
        assert len(journal_bytes(tmp_path / "run")) > size
        times.append(time.time())
        for cable in cables:
            cable.plug()
        missed = len(journal_bytes(tmp_path / "run"))
        assert len(journal_bytes(copy)) < missed
        wait_until(lambda: len(journal_bytes(copy)) > missed, 30 + 2 * CUT_SECONDS)
        times.append(time.time())
        wait_until(lambda: lines.stat().st_mtime > times[-1], 30 + 2 * CUT_SECONDS)
        times.append(time.time())

        trainer.communicate(timeout=40)
        assert [sink.wait(40) for sink in sinks] == [0, 0]
        assert journal_bytes(copy) == journal_bytes(tmp_path / "run")
    assert all(report.is_whole and report.ending for report in verify_run(copy))
    for name, file in (("jsonl", "events.jsonl"), ("loss-file", "loss.tsv")):
        command = [*trainwire, "sink", name, tmp_path / "run", "--output", tmp_path / "near"]
        subprocess.run(command, check=True)
        assert (tmp_path / name / file).read_bytes() == (tmp_path / "near" / file).read_bytes()
    if "CUT_SECONDS" in os.environ:
        with capsys.disabled():
            print_durations(tmp_path / "run", times)
