"""What a training step costs while the sinks and disks of its run fail: python benchmarks/faults.py

A step of about 200 µs on the CPU that logs ten scalars is timed against the same step that logs nothing, in short
blocks that alternate within one process, once for each fault. What counts is the ratio of the medians.
"""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from unittest import mock

import torch

import trainwire

BLOCKS = 40
STEPS_PER_BLOCK = 100
METRICS = {f"train/metric-{number}": 0.1 * number for number in range(10)}

Log = Callable[[int], object]


def make_step() -> Callable[[], object]:
    """A step that takes about 200 µs on this machine."""
    torch.set_num_threads(1)
    matrix, vector = torch.rand(64, 64), torch.rand(64, 64)

    def work(repetitions: int) -> None:
        for _ in range(repetitions):
            torch.mm(matrix, vector)

    work(1000)
    begun = time.perf_counter()
    work(1000)
    repetitions = max(1, round(200e-6 / ((time.perf_counter() - begun) / 1000)))
    return lambda: work(repetitions)


def time_blocks(step: Callable[[], object], log: Log) -> tuple[float, float]:
    """Median seconds of a step that logs and of one that does not."""
    with_log, without = list[float](), list[float]()
    number = 0
    for _ in range(BLOCKS):
        begun = time.perf_counter()
        for _ in range(STEPS_PER_BLOCK):
            step()
        middle = time.perf_counter()
        for _ in range(STEPS_PER_BLOCK):
            step()
            number += 1
            log(number)
        end = time.perf_counter()
        without.append((middle - begun) / STEPS_PER_BLOCK)
        with_log.append((end - middle) / STEPS_PER_BLOCK)
    return median(with_log), median(without)


@contextlib.contextmanager
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


@contextlib.contextmanager
def no_fault(_: Path) -> Iterator[None]:
    yield


@contextlib.contextmanager
def a_sink(folder: Path) -> Iterator[None]:
    with running_sink(folder):
        yield


@contextlib.contextmanager
def a_stopped_sink(folder: Path) -> Iterator[None]:
    with running_sink(folder) as sink:
        sink.send_signal(signal.SIGSTOP)
        yield


@contextlib.contextmanager
def a_dead_sink(folder: Path) -> Iterator[None]:
    with running_sink(folder) as sink:
        sink.kill()
        sink.wait()
        yield


@contextlib.contextmanager
def a_full_disk(_: Path) -> Iterator[None]:
    def refuse(*_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with mock.patch("trainwire_protocol.journal.os.write", refuse):
        yield


@contextlib.contextmanager
def a_frozen_disk(_: Path) -> Iterator[None]:
    answers, write = threading.Event(), os.write

    def hang(descriptor: int, data: bytes) -> int:
        answers.wait()
        return write(descriptor, data)

    with mock.patch("trainwire_protocol.journal.os.write", hang):
        try:
            yield
        finally:
            answers.set()


FAULTS = {
    "no sink": no_fault, "a sink": a_sink, "a stopped sink": a_stopped_sink, "a dead sink": a_dead_sink,
    "a full disk": a_full_disk, "a frozen disk": a_frozen_disk,
}  # fmt: skip


def time_fault(step: Callable[[], object], name: str, folder: Path) -> tuple[float, float]:
    with trainwire.open_bus(folder / name.replace(" ", "-")) as bus, FAULTS[name](bus.folder):
        return time_blocks(step, lambda number: bus.log(METRICS, step=number))


def main() -> None:
    step = make_step()
    print(f"{BLOCKS} alternated blocks of {STEPS_PER_BLOCK} steps; medians\n")
    print(f"| {'while there is':<16} | step that logs, µs | step that does not, µs | ratio |")
    print("|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        rows = {"nothing logged": lambda: time_blocks(step, lambda _: None)}
        rows |= {name: lambda name=name: time_fault(step, name, Path(folder)) for name in FAULTS}
        for name, measure in rows.items():
            logging, silent = measure()
            print(f"| {name:<16} | {logging * 1e6:.1f} | {silent * 1e6:.1f} | {logging / silent:.3f} |", flush=True)


if __name__ == "__main__":
    main()
