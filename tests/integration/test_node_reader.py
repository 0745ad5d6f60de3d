"""The reader in Node, which is written from the wire's specification alone, reads what `trainwire export` exports."""

from __future__ import annotations

import contextlib
import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support.paths import EXAMPLES, TESTS
from support.publisher import Publisher, run
from support.run_reader import until, wait_until

from trainwire_protocol.wire import Cursor

FOLDER = EXAMPLES / "node-reader"
NODE = shutil.which("node")
GOLDEN = TESTS / "protocol" / "golden" / "version-1"


def reason_to_skip() -> str:
    """Return why the reader cannot run here, or an empty string."""
    if NODE is None:
        return "Node is not installed"
    version = subprocess.run([NODE, "--version"], capture_output=True, text=True, check=True).stdout
    if tuple(map(int, version.strip("v\n").split(".")[:2])) < (20, 15):
        return f"Node 20.15 or later is needed, not {version.strip()}"
    is_installed = (FOLDER / "node_modules" / "zeromq").exists()
    return "" if is_installed else "its packages are not installed: run npm ci in examples/node-reader"


REASON = reason_to_skip()
pytestmark = pytest.mark.skipif(bool(REASON), reason=REASON)

TRAINER = """
import json, sys, time
import trainwire
folder, first, count, options = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), json.loads(sys.argv[4])
bus = trainwire.open_bus(folder, **options)
print(json.dumps(None), flush=True)
for line in sys.stdin:
    for step in range(first, first + count):
        bus.log({"train/loss": 1 / step, "tokens": 2**53 + step, "dev/loss": float("nan")}, step=step)
        if step % 20 == 0:
            bus.image("sample", {"data": bytes(step), "format": "png"}, step=step)
            time.sleep(0.005)
    state = bus.state_dict()
    assert bus.wait_until_journaled(state, 20)
    print(json.dumps(state), flush=True)
    break
if sys.stdin.readline():
    bus.image("sample", {"data": bytes(300_000), "format": "png"}, step=first + count)
    bus.close(timeout=20)
"""


class Trainer:
    """A training process that records 3 scalars at each step, and an image at every twentieth."""

    def __init__(self, folder: Path, first: int = 1, count: int = 1000, **options: object) -> None:
        command = [sys.executable, "-c", TRAINER, folder, str(first), str(count), json.dumps(options)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self._answer()

    def record(self) -> Any:
        """Record the steps, and return the state of the bus once they are in the journal."""
        self._send()
        return self._answer()

    def end(self) -> None:
        """Record a batch that is too large to be published, close the bus, and wait for the end of the process."""
        self._send()
        assert self.process.wait(40) == 0

    def kill(self) -> None:
        """End the process without an end of the run."""
        self.process.kill()
        self.process.wait()

    def _send(self) -> None:
        assert self.process.stdin
        self.process.stdin.write("\n")
        self.process.stdin.flush()

    def _answer(self) -> Any:
        assert self.process.stdout
        return json.loads(self.process.stdout.readline())


class Reader:
    """A process of the reader in Node."""

    def __init__(self, output: Path, target: Path, *options: str) -> None:
        self._output = output
        with output.open("wb") as file:
            self.process = subprocess.Popen(
                [str(NODE), FOLDER / "reader.mjs", target, *options], stdout=file, stderr=subprocess.PIPE, text=True
            )

    def printed(self) -> list[Any]:
        """Return the events that were printed so far."""
        lines = self._output.read_bytes().split(b"\n")[:-1]
        return [json.loads(line) for line in lines]

    def finish(self) -> list[Any]:
        """Return all events, after the reader has ended by itself."""
        _, errors = self.process.communicate(timeout=40)
        assert self.process.returncode == 0, errors
        return self.printed()


StartReader = Callable[..., Reader]
StartTrainer = Callable[..., Trainer]


def end(process: subprocess.Popen[str]) -> None:
    """Kill a process, if it still runs, and close its pipes."""
    process.kill()
    process.communicate()


@pytest.fixture
def read(tmp_path: Path) -> Iterator[StartReader]:
    """Start a reader, which ends with the test."""
    with contextlib.ExitStack() as processes:

        def start(target: Path, *options: str) -> Reader:
            reader = Reader(tmp_path / "events.jsonl", target, *options)
            processes.callback(end, reader.process)
            return reader

        yield start


@pytest.fixture
def train(tmp_path: Path) -> Iterator[StartTrainer]:
    """Start a training that records into `tmp_path / "run"`, which ends with the test."""
    with contextlib.ExitStack() as processes:

        def start(**options: Any) -> Trainer:
            trainer = Trainer(tmp_path / "run", **options)
            processes.callback(end, trainer.process)
            return trainer

        yield start


def export(folder: Path) -> list[Any]:
    """Return what `trainwire export` writes."""
    command = [sys.executable, "-m", "trainwire_sinks", "export", str(folder), "--format", "jsonl"]
    completed = subprocess.run(command, capture_output=True, text=True, check=True)
    return [json.loads(line) for line in completed.stdout.splitlines()]


HISTORIES = pytest.mark.parametrize("history", [[], ["--fetch"]], ids=["files", "fetch"])


@HISTORIES
def test_live_from_the_start(tmp_path: Path, read: StartReader, train: StartTrainer, history: list[str]) -> None:
    """A reader that starts before the first step reads everything, up to a last batch that is not published."""
    trainer = train()
    reader = read(tmp_path / "run", *history)
    wait_until(reader.printed)
    trainer.record()
    trainer.end()
    assert reader.finish() == export(tmp_path / "run")


def test_a_run_that_has_not_begun(tmp_path: Path, read: StartReader, train: StartTrainer) -> None:
    """A reader of a folder that does not exist yet waits for it."""
    reader = read(tmp_path / "run")
    trainer = train(count=20)
    trainer.record()
    trainer.end()
    assert reader.finish() == export(tmp_path / "run")


@HISTORIES
def test_late(tmp_path: Path, read: StartReader, train: StartTrainer, history: list[str]) -> None:
    """A reader that starts when most was recorded reads everything, and waits for the end."""
    trainer = train()
    trainer.record()
    reader = read(tmp_path / "run", *history)
    wait_until(lambda: len(reader.printed()) > 3000)
    trainer.end()
    assert reader.finish() == export(tmp_path / "run")


def test_a_killed_publisher(tmp_path: Path, read: StartReader, train: StartTrainer) -> None:
    """A reader of the folder notices that the publisher's process is gone, and ends with everything that it wrote."""
    trainer = train()
    reader = read(tmp_path / "run")
    trainer.record()
    trainer.kill()
    assert reader.finish() == export(tmp_path / "run")


def test_a_publisher_that_is_suspended_and_then_killed(tmp_path: Path, read: StartReader, train: StartTrainer) -> None:
    """A suspended publisher is waited for. Without the journal, a killed one leaves the reader incomplete."""
    trainer = train()
    trainer.record()
    trainer.process.send_signal(signal.SIGSTOP)
    reader = read(tmp_path / "run", "--fetch")
    with pytest.raises(subprocess.TimeoutExpired):
        reader.process.wait(1.5)
    trainer.process.send_signal(signal.SIGCONT)
    wait_until(lambda: len(reader.printed()) == len(export(tmp_path / "run")))
    trainer.kill()
    assert "the publisher is gone" in reader.process.communicate(timeout=40)[1]
    assert reader.process.returncode == 1


@HISTORIES
def test_dropped_messages(tmp_path: Path, read: StartReader, train: StartTrainer, history: list[str]) -> None:
    """With queues of 5 messages, what ZeroMQ drops is read from the history."""
    trainer = train(high_water_mark=5, flush_interval=0.001)
    reader = read(tmp_path / "run", *history, "--queue", "5")
    wait_until(reader.printed)
    reader.process.send_signal(signal.SIGSTOP)
    trainer.record()
    reader.process.send_signal(signal.SIGCONT)
    trainer.end()
    assert reader.finish() == export(tmp_path / "run")


def test_a_folder_with_a_journal_alone(tmp_path: Path, read: StartReader, train: StartTrainer) -> None:
    """The journal of a finished run is sufficient."""
    trainer = train()
    trainer.record()
    trainer.end()
    shutil.copytree(tmp_path / "run" / "journal", tmp_path / "copy" / "journal")
    assert read(tmp_path / "copy").finish() == export(tmp_path / "run")


@HISTORIES
def test_a_resumed_run(tmp_path: Path, read: StartReader, train: StartTrainer, history: list[str]) -> None:
    """A reader that follows the resumed attempt leaves out what it supersedes."""
    first = train()
    state = first.record()
    first.kill()
    second = train(first=1001, state=state)
    second.record()
    second.kill()
    third = train(first=1001, state=state)
    reader = read(tmp_path / "run", *history)
    third.record()
    third.end()
    assert reader.finish() == export(tmp_path / "run")


def test_over_tcp_with_a_copied_connection_file(tmp_path: Path, read: StartReader, train: StartTrainer) -> None:
    """On another host the connection file is sufficient: it contains the addresses and the keys."""
    trainer = train(bind="tcp://127.0.0.1:0")
    shutil.copy(tmp_path / "run" / "connection-rank0.json", tmp_path / "away.json")
    reader = read(tmp_path / "away.json")
    wait_until(reader.printed)
    trainer.record()
    trainer.end()
    assert reader.finish() == export(tmp_path / "run")


def test_the_golden_run(read: StartReader) -> None:
    """The golden run contains NaN, 64-bit integers, the key `__proto__`, an unknown type and a torn tail."""
    rows = [json.loads(line) for line in (GOLDEN / "recorded.jsonl").read_text().splitlines()]
    fields = ("name", "value", "type", "walltime", "step")
    kept = [dict(zip(fields, row["event"], strict=True)) | {"rank": 0} for row in rows if not row["superseded"]]
    assert read(GOLDEN / "recorded").finish() == kept


@HISTORIES
@pytest.mark.parametrize("channels", ["event", "media", "event,media"])
def test_the_publisher_knows_how_far_the_reader_is(
    tmp_path: Path, read: StartReader, channels: str, history: list[str]
) -> None:
    """The reader acknowledges what it has printed, and at the end everything, whichever channels it reads."""

    async def main() -> None:
        async with Publisher(tmp_path / "run") as publisher:
            sinks = publisher.server.responder.sinks
            publisher.scalars(3)
            publisher.scalars(2, "media")
            publisher.scalars(3)
            reader = read(tmp_path / "run", "--channels", channels, *history)
            await until(lambda: "node-reader" in sinks)
            await until(lambda: sinks["node-reader"].cursor in (Cursor(0, 4), Cursor(0, 7)))
            publisher.scalars(3)
            publisher.end()
            await until(lambda: reader.process.poll() is not None)
            assert sinks["node-reader"].cursor == publisher.recorded[-1].cursor
            read_batches = [batch for batch in publisher.recorded if batch.header.channel in channels.split(",")]
            assert len(reader.finish()) == sum(batch.header.count for batch in read_batches)

    run(main())
