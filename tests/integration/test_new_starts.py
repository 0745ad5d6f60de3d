"""Runs that are started anew, added to, and resumed from an earlier start, as sinks see them."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from support.run_reader import read_events, wait_until

import trainwire
from trainwire_protocol.journal.run_folder import read_run_name
from trainwire_protocol.transport.connection import connection_path, read_connection, write_connection
from trainwire_sinks.cli import app

SINKS = ("loss-file", "log-file", "jsonl", "tensorboard")

KILLED = """
import os, signal, sys
import trainwire

bus = trainwire.open_bus(sys.argv[1])
for step in range(1, 31):
    bus.log({"train/loss": 5.0}, step=step)
    if step % 10 == 0:
        bus.lifecycle("epoch/finished", epoch=step // 10)
assert bus.wait_until_journaled(bus.state_dict(), 10)
os.kill(os.getpid(), signal.SIGKILL)
"""

KEPT = {0: [8.0] * 5, 2: [7.0] * 4 + [6.0], 3: [5.0] * 3, 4: [4.0] * 3}
"""The losses in the table that each earlier start leaves, by the number of its last attempt."""


def train(folder: Path, loss: float, epochs: int, **options: Any) -> dict[str, Any]:
    """Record epochs of ten steps; return the state at the end of the second one."""
    state: dict[str, Any] = {}
    with trainwire.open_bus(folder, hparams={"loss": loss}, **options) as bus:
        for step in range(1, 10 * epochs + 1):
            bus.log({"train/loss": loss, "dev/score": loss * step}, step=step)
            if step % 10 == 0:
                bus.lifecycle("epoch/finished", epoch=step // 10)
            if step == 20:
                state = bus.state_dict()
    return state


def record(folder: Path) -> Path:
    """Record six attempts: a run, a new start, an addition to it, a new start that is killed, another one, and one that
    resumes from the first start.
    """
    state = train(folder, 8.0, 5)
    train(folder, 7.0, 4)
    train(folder, 6.0, 1, append=True)
    assert subprocess.run([sys.executable, "-c", KILLED, str(folder)], check=False).returncode == -signal.SIGKILL
    train(folder, 4.0, 3)
    train(folder, 3.0, 2, state=state)
    return folder


def finish_sink(name: str, target: Path, output: Path, *options: str) -> None:
    assert app.run(["sink", name, str(target), "--output", str(output), *options]) == 0


def start_command(*arguments: object) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "trainwire_sinks", *map(str, arguments)]
    return subprocess.Popen(command, stderr=subprocess.DEVNULL)


def contents(folder: Path) -> dict[str, bytes]:
    paths = (path for path in sorted(folder.rglob("*")) if path.is_file() and ".trainwire" not in path.parts)
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


def losses(path: Path) -> list[float]:
    if not path.exists():
        return []
    return [float(line.split("\t")[4]) for line in path.read_text().splitlines()[1:]]


def check_outputs(folder: Path) -> None:
    """Check that the table of each start has the rows of that start and no others."""
    for attempt, expected in KEPT.items():
        assert losses(folder / f"loss.attempt-{attempt}.tsv") == expected
    assert losses(folder / "loss.tsv") == [8.0] * 2 + [3.0] * 2
    assert len(list(folder.glob("loss*"))) == len(KEPT) + 1
    assert {path.name for path in (folder / "tensorboard").iterdir()} == {
        "rank-0", "rank-0.attempt-1", "rank-0.attempt-3", "rank-0.attempt-4",
    }  # fmt: skip
    log = (folder / "training.log").read_text()
    assert log.count("new start of the run") == 3
    assert log.count("run resumed from step 20 (attempt 0,") == 1


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a run with six attempts, and the outputs of sinks that started after it."""
    folder = record(tmp_path_factory.mktemp("run") / "run")
    for name in SINKS:
        finish_sink(name, folder, folder)
    return folder


def test_late_sinks_keep_each_start(recorded: Path) -> None:
    """Sinks that start after the run have a file for each start, with its rows."""
    check_outputs(recorded)


DYING = """
import os, signal, sys
from trainwire_sinks.cli.app import main
from trainwire_sinks.runtime import output

keep_aside, when = output._keep_aside, sys.argv.pop(1)

def die(path, attempt):
    if when == "after":
        keep_aside(path, attempt)
    os.kill(os.getpid(), signal.SIGKILL)

output._keep_aside = die
sys.exit(main())
"""


@pytest.mark.parametrize(("name", "when"), [("loss-file", "before"), ("jsonl", "before"), ("loss-file", "after")])
def test_a_sink_killed_while_it_renames_does_so_once(recorded: Path, tmp_path: Path, name: str, when: str) -> None:
    """A kill before or after the rename, between two cursors, loses and doubles nothing."""
    command = [sys.executable, "-c", DYING, when, "sink", name, str(recorded), "--output", str(tmp_path)]
    for _ in range(2):
        assert subprocess.run(command, check=False, timeout=120).returncode == -signal.SIGKILL
        assert json.loads((tmp_path / ".trainwire" / f"{name}-rank0.cursor").read_text())["ended"] == 0
    finish_sink(name, recorded, tmp_path)
    expected = {path: data for path, data in contents(recorded).items() if path in contents(tmp_path)}
    assert contents(tmp_path) == expected
    assert len(expected) == len(KEPT) + 1


def test_a_remote_sink_keeps_each_start(tmp_path: Path) -> None:
    """A sink that gets everything from the publisher of the last attempt keeps the earlier starts aside too."""
    folder = record(tmp_path / "run")
    far = tmp_path / "far"
    with trainwire.open_bus(folder, append=True) as bus:
        write_connection(tmp_path / "elsewhere.json", read_connection(connection_path(folder, 0)))
        sink = start_command("sink", "loss-file", tmp_path / "elsewhere.json", "--output", far, "--give-up", 20)
        wait_until(lambda: len(list(far.glob("loss*"))) == len(KEPT) + 1)
        wait_until(lambda: losses(far / "loss.tsv") == [8.0] * 2 + [3.0] * 2)
        bus.log({"test/score": 1.0})
    assert sink.wait(60) == 0
    finish_sink("loss-file", folder, tmp_path / "near")
    assert contents(far) == contents(tmp_path / "near")


def test_a_copy_of_a_relay_has_every_start(tmp_path: Path) -> None:
    """A relay copies superseded attempts too, so that a sink of the copy keeps the same files aside."""
    folder = tmp_path / "run"
    for loss in (1.0, 2.0):
        train(folder, loss, 2)
    relay = start_command("relay", folder, "--output", tmp_path / "copies")
    copy = tmp_path / "copies" / str(read_run_name(folder))
    try:
        wait_until(lambda: read_events(copy) == read_events(folder))
    finally:
        relay.terminate()
        relay.wait(20)
    for target, output in ((folder, "near"), (copy, "far")):
        finish_sink("jsonl", target, tmp_path / output)
    assert contents(tmp_path / "far") == contents(tmp_path / "near")
    assert (tmp_path / "far" / "events.attempt-0.jsonl").exists()


def test_each_rank_keeps_its_own_outputs_aside(tmp_path: Path) -> None:
    """With `--rank all`, the files of each rank are beside each other in the folder of the rank."""
    folder = tmp_path / "run"
    for loss in (1.0, 2.0):
        for rank in (0, 1):
            with trainwire.open_bus(folder, rank=rank, world_size=2) as bus:
                bus.log({"train/loss": loss + 10 * rank})
                bus.lifecycle("epoch/finished", epoch=1)
    finish_sink("loss-file", folder, folder, "--rank", "all")
    for rank, place in enumerate((folder, folder / "rank-1")):
        assert losses(place / "loss.attempt-0.tsv") == [1.0 + 10 * rank]
        assert losses(place / "loss.tsv") == [2.0 + 10 * rank]


def test_a_run_whose_sink_ran_between_two_starts(tmp_path: Path) -> None:
    """A script that is run twice, with a sink after each time, as a user does it, leaves both tables."""
    folder = tmp_path / "run"
    for loss in (1.0, 2.0):
        train(folder, loss, 2)
        finish_sink("loss-file", folder, folder)
    assert losses(folder / "loss.attempt-0.tsv") == [1.0] * 2
    assert losses(folder / "loss.tsv") == [2.0] * 2
    cursor = json.loads((folder / ".trainwire" / "loss-file-rank0.cursor").read_text())
    assert (cursor["start"], cursor["ended"]) == (1, None)
