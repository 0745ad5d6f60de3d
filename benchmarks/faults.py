"""The cost of logging in a training step while a sink or the disk fails."""

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
from benchmarks.hot_path import STEPS_PER_BLOCK
from benchmarks.measurement import Size, alternate, log_nothing, make_step, metrics, ratio_of_medians
from benchmarks.report import Result


def step_while_something_fails(size: Size) -> Iterator[Result]:
    """A 200 µs step that logs ten scalars while a sink or the disk fails, relative to a step that logs nothing."""
    step, blocks = make_step(), size.of(60, 5)
    with tempfile.TemporaryDirectory() as folder:
        for name, fault in FAULTS.items():
            with trainwire.open_bus(Path(folder) / name.replace(" ", "-")) as bus, fault(bus.folder):
                logs = [log_nothing, lambda step: bus.log(metrics(step), step=step)]
                base, ours = alternate(step, logs, blocks, STEPS_PER_BLOCK)
            ratio = ratio_of_medians(ours, base, STEPS_PER_BLOCK)
            yield Result(f"that step with {name}", f"{ratio:.3f}", "1.03", ratio <= 1.03)


@contextmanager
def sink_process(folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run a sink on the run, and kill it at the end."""
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
def running_sink(folder: Path) -> Iterator[None]:
    with sink_process(folder):
        yield


@contextmanager
def stopped_sink(folder: Path) -> Iterator[None]:
    with sink_process(folder) as sink:
        sink.send_signal(signal.SIGSTOP)
        yield


@contextmanager
def dead_sink(folder: Path) -> Iterator[None]:
    with sink_process(folder) as sink:
        sink.kill()
        sink.wait()
        yield


@contextmanager
def full_disk(_: Path) -> Iterator[None]:
    def refuse(*_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with mock.patch("trainwire_protocol.journal.segments.os.write", refuse):
        yield


@contextmanager
def hanging_disk(_: Path) -> Iterator[None]:
    released, write = threading.Event(), os.write

    def hang(descriptor: int, data: bytes) -> int:
        released.wait()
        return write(descriptor, data)

    with mock.patch("trainwire_protocol.journal.segments.os.write", hang):
        try:
            yield
        finally:
            released.set()


FAULTS: dict[str, Callable[[Path], AbstractContextManager[None]]] = {
    "a running sink": running_sink, "a stopped sink": stopped_sink, "a dead sink": dead_sink,
    "a full disk": full_disk, "a hanging disk": hanging_disk,
}  # fmt: skip
"""Each by its name in the table; the first one is not a fault, but what the others are compared with."""
