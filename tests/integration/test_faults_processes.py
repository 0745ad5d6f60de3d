"""Killed and stopped trainers and sinks, worker processes, and the ways in which a script ends."""

from __future__ import annotations

import mmap
import os
import random
import signal
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from support.paths import TESTS as TESTS_FOLDER
from support.run_reader import read_events, wait_until

from trainwire_protocol.journal.verification import verify_run

TESTS = str(TESTS_FOLDER)
LATEST = struct.Struct("<qd")


@contextmanager
def script(code: str, *arguments: object, file: Path | None = None) -> Iterator[subprocess.Popen[str]]:
    """Start a Python script in its own process group, and kill the group at the end."""
    source = ["-c", code]
    if file is not None:
        file.write_text(code)
        source = [str(file)]
    process = subprocess.Popen(
        [sys.executable, *source, *map(str, arguments)], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True, start_new_session=True, env=os.environ | {"PYTHONPATH": TESTS},
    )  # fmt: skip
    try:
        yield process
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def values(folder: Path, name: str = "train/loss") -> list[float]:
    return [event.value for event in read_events(folder) if event.name == name]


KILLED = """
import mmap, struct, sys, time, trainwire
file = open(sys.argv[2], "r+b")
shared = mmap.mmap(file.fileno(), 16)
with trainwire.open_bus(sys.argv[1]) as bus:
    step = 0
    while True:
        step += 1
        bus.log({"train/loss": float(step)}, step=step)
        struct.pack_into("<qd", shared, 0, step, time.time())
        if step % 10 == 0:
            time.sleep(0.001)
"""


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_killed_trainer_loses_at_most_the_last_flush(tmp_path: Path, seed: int) -> None:
    """After `kill -9` the journal holds every event recorded until a second before, in order."""
    (tmp_path / "latest").write_bytes(bytes(LATEST.size))
    with script(KILLED, tmp_path / "run", tmp_path / "latest") as trainer:
        wait_until(lambda: len(values(tmp_path / "run")) > 1000 * seed)
        threading.Event().wait(random.Random(seed).uniform(0, 0.1))
        trainer.kill()
        trainer.wait(10)
    with (tmp_path / "latest").open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as shared:
        recorded, at = LATEST.unpack_from(shared)
    events = [event for event in read_events(tmp_path / "run") if event.name == "train/loss"]
    assert [event.step for event in events] == list(range(1, len(events) + 1))
    (report,) = verify_run(tmp_path / "run")
    assert report.is_whole
    assert report.ending is None
    lost = at - events[-1].walltime
    print(f"lost: {recorded - len(events)} of {recorded} events, the last {1000 * lost:.1f} ms")
    assert lost < 1.0


SHORT_TIMEOUTS = """
import sys
from trainwire.bus import writer
from trainwire_protocol.journal import run_folder
from trainwire_protocol.subscription import follower, history
from trainwire_protocol.transport import requester, responder
follower.SILENCE_SECONDS = follower.WARNING_INTERVAL_SECONDS = history.HELLO_SECONDS = 0.1
requester.Requester.request.__kwdefaults__["timeout"] = 0.1
responder.ACKNOWLEDGEMENT_SECONDS = 0.2
run_folder.LEASE_SECONDS = history.LEASE_SECONDS = 0.3
writer.RENEWAL_SECONDS = 0.1
"""
"""Shortens every timeout of trainer and sinks."""

STOPPED_TRAINER = (
    SHORT_TIMEOUTS
    + """
import time, trainwire
with trainwire.open_bus(sys.argv[1]) as bus:
    for step in range(1, 1501):
        bus.log({"train/loss": float(step)}, step=step)
        time.sleep(0.001)
        if step == 1200:
            sys.stdin.readline()
    bus.close(timeout=20)
"""
)
SINK = (
    SHORT_TIMEOUTS
    + """
from trainwire_sinks.cli.app import run
sys.exit(run(sys.argv[1:]))
"""
)


def stop_for(process: subprocess.Popen[str], seconds: float) -> None:
    process.send_signal(signal.SIGSTOP)
    threading.Event().wait(seconds)
    process.send_signal(signal.SIGCONT)


def continue_training(trainer: subprocess.Popen[str]) -> None:
    assert trainer.stdin is not None
    trainer.stdin.write("\n")
    trainer.stdin.flush()


@pytest.mark.parametrize("victim", ["trainer", "sinks"])
def test_stopped_for_longer_than_every_timeout(tmp_path: Path, victim: str) -> None:
    """A stopped and continued trainer or sink loses nothing, whether the sink reads files or requests events."""
    folder = tmp_path / "run"
    with script(STOPPED_TRAINER, folder) as trainer:
        wait_until(lambda: (folder / "connection-rank0.json").exists() and values(folder))
        copy = tmp_path / "copied.json"
        copy.write_bytes((folder / "connection-rank0.json").read_bytes())
        with (
            script(SINK, "sink", "jsonl", folder, "--output", tmp_path / "by-files") as near,
            script(SINK, "sink", "jsonl", copy, "--output", tmp_path / "by-fetch") as far,
        ):
            outputs = [tmp_path / name / "events.jsonl" for name in ("by-files", "by-fetch")]
            wait_until(lambda: all(path.exists() and path.stat().st_size for path in outputs))
            for process in [trainer] if victim == "trainer" else [near, far]:
                stop_for(process, 1.2)
            continue_training(trainer)
            assert trainer.wait(30) == 0
            assert near.wait(30) == 0
            assert far.wait(30) in (0, 3)
    assert values(folder) == [float(step) for step in range(1, 1501)]
    with script(SINK, "sink", "jsonl", folder, "--output", tmp_path / "by-fetch") as again:
        assert again.wait(30) == 0
    assert outputs[0].read_bytes() == outputs[1].read_bytes()
    assert outputs[0].read_text().count('"train/loss"') == 1500


WORKERS = """
import sys, torch, trainwire
from torch.utils.data import DataLoader, Dataset

class Squares(Dataset):
    bus = None
    def __len__(self):
        return 64
    def __getitem__(self, index):
        if Squares.bus is not None:
            Squares.bus.log({"from/worker": 1.0})
        return torch.tensor(float(index * index))

def main():
    with trainwire.open_bus(sys.argv[1]) as bus:
        Squares.bus = bus
        for epoch, method in enumerate(["fork", "spawn"]):
            loader = DataLoader(Squares(), batch_size=8, num_workers=2, multiprocessing_context=method)
            for step, batch in enumerate(loader, start=1 + 8 * epoch):
                bus.log({"train/loss": float(step), "train/sum": batch.sum()}, step=step)
        bus.close(timeout=20)

if __name__ == "__main__":
    main()
"""


@pytest.mark.timeout(180)
def test_loader_workers_cannot_record(tmp_path: Path) -> None:
    """The bus is inert in forked workers, and spawned ones have none; the run is complete and has no event of them."""
    pytest.importorskip("torch")
    with script(WORKERS, tmp_path / "run", file=tmp_path / "script.py") as process:
        _, error = process.communicate(timeout=100)
    assert process.returncode == 0, error
    assert values(tmp_path / "run") == [float(step) for step in range(1, 17)]
    assert not values(tmp_path / "run", "from/worker")
    (report,) = verify_run(tmp_path / "run")
    assert (report.is_whole, report.ending) == (True, "run/finished")


TRAINING = """
import sys, os
from pathlib import Path
from support.tiny_training import make_trainer, train
from torch.utils.data import DataLoader
from support.tiny_training import corpus, points

def main():
    ending, workers = sys.argv[2], int(sys.argv[3])
    trainer = make_trainer()

    @trainer.on("after_training_batch")
    def end(batch):
        if batch.step == 10:
            if ending == "exception":
                raise ValueError("broken on purpose")
            if ending == "exit":
                sys.exit(7)
            print("step 10", flush=True)

    context = "spawn" if workers else None
    loader = DataLoader(points(160), batch_size=16, num_workers=workers, multiprocessing_context=context)
    result = train(Path(sys.argv[1]), trainer=trainer, train=loader, max_epochs=10**6)
    print(result.status, result.reason, flush=True)

if __name__ == "__main__":
    main()
"""
ENDINGS = [
    ("exit", 0, [], 7, "run/failed"),
    ("signal", 0, [signal.SIGTERM], 0, "run/interrupted"),
    ("signal", 2, [signal.SIGINT], 0, "run/interrupted"),
]


@pytest.mark.timeout(240)
@pytest.mark.parametrize(("ending", "workers", "signals", "code", "last"), ENDINGS)
def test_every_ending_of_a_script_is_recorded(
    tmp_path: Path, ending: str, workers: int, signals: Sequence[signal.Signals], code: int, last: str
) -> None:
    """`sys.exit`, SIGTERM, and Ctrl-C, which also reaches spawned workers, are recorded as the run's ending."""
    pytest.importorskip("torch")
    with script(TRAINING, tmp_path / "run", ending, workers, file=tmp_path / "script.py") as process:
        assert process.stdout is not None
        if signals:
            assert process.stdout.readline() == "step 10\n"
        for number in signals:
            os.killpg(process.pid, number)
        _, error = process.communicate(timeout=220)
    assert process.returncode == code, error
    (report,) = verify_run(tmp_path / "run")
    assert (report.is_whole, report.ending) == (True, last), error
