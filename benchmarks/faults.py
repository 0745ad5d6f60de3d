"""What a training step costs while the sinks and disks of its run fail."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from unittest import mock

import trainwire
from benchmarks.hot_path import STEPS_PER_BLOCK, metrics, nothing
from benchmarks.measuring import alternate, make_step, ratio_of_medians
from benchmarks.result import Result, Size


def step_while_something_fails(size: Size) -> Iterator[Result]:
    """A step of 200 µs that logs ten scalars against one that logs nothing, while sinks and disks fail."""
    step, blocks = make_step(), size.of(60, 5)
    with tempfile.TemporaryDirectory() as folder:
        for name, fault in FAULTS.items():
            with trainwire.open_bus(Path(folder) / name.replace(" ", "-")) as bus, fault(bus.folder):
                logs = [nothing, lambda step: bus.log(metrics(step), step=step)]
                none, ours = alternate(step, logs, blocks, STEPS_PER_BLOCK)
            ratio = ratio_of_medians(ours, none, STEPS_PER_BLOCK)
            yield Result(f"that step with {name}", f"{ratio:.3f}", "1.03", ratio <= 1.03)


@contextmanager
def running_sink(folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A sink beside the run, which is killed at the end."""
    command = [sys.executable, "-m", "trainwire_sinks", "sink", "jsonl", str(folder)]
    sink = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    try:
        cursor = folder / ".trainwire" / "jsonl-rank0.cursor"
        while not cursor.exists():
            time.sleep(0.01)
        yield sink
    finally:
        sink.kill()
        sink.wait()


@contextmanager
def a_sink(folder: Path) -> Iterator[None]:
    with running_sink(folder):
        yield


@contextmanager
def a_stopped_sink(folder: Path) -> Iterator[None]:
    with running_sink(folder) as sink:
        sink.send_signal(signal.SIGSTOP)
        yield


@contextmanager
def a_dead_sink(folder: Path) -> Iterator[None]:
    with running_sink(folder) as sink:
        sink.kill()
        sink.wait()
        yield


@contextmanager
def a_full_disk(_: Path) -> Iterator[None]:
    def refuse(*_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with mock.patch("trainwire_protocol.journal.segments.os.write", refuse):
        yield


@contextmanager
def a_frozen_disk(_: Path) -> Iterator[None]:
    answers, write = threading.Event(), os.write

    def hang(descriptor: int, data: bytes) -> int:
        answers.wait()
        return write(descriptor, data)

    with mock.patch("trainwire_protocol.journal.segments.os.write", hang):
        try:
            yield
        finally:
            answers.set()


FAULTS: dict[str, Callable[[Path], AbstractContextManager[None]]] = {
    "a sink": a_sink, "a stopped sink": a_stopped_sink, "a dead sink": a_dead_sink,
    "a full disk": a_full_disk, "a frozen disk": a_frozen_disk,
}  # fmt: skip
