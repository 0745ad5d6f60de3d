"""The cost of logging in the training thread: one call of `log`, a step that logs, and the slowest steps."""

from __future__ import annotations

import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from torch.utils.tensorboard import SummaryWriter

import trainwire
from benchmarks.measurement import (
    LEAD_IN,
    Size,
    alternate,
    log_nothing,
    make_step,
    median_of,
    metrics,
    percentile,
    ratio_of_medians,
)
from benchmarks.report import Result
from trainwire.bus.bus import EventBus

STEPS_PER_BLOCK = 200
BURST = 200
SETTLE_SECONDS = 0.005
"""Time for the bus's threads to finish with what they have taken from the queue."""


def log_ten_floats(size: Size) -> Iterator[Result]:
    """`bus.log` of ten floats, without the construction of the mapping, and relative to `SummaryWriter.add_scalar`."""
    calls = size.of(20_000, 2_000)
    with tempfile.TemporaryDirectory() as folder:
        with trainwire.open_bus(Path(folder) / "run") as bus:
            cost = cost_of_log(bus, size.of(300, 30))
            ours = median_of(15, lambda: time_calls(lambda step: bus.log(metrics(step), step=step), calls))
        writer = SummaryWriter(f"{folder}/tensorboard")
        theirs = median_of(3, lambda: time_calls(lambda step: add_scalars(writer, step), calls // 20))
        writer.close()
    yield Result("`log` of ten floats", f"{cost * 1e6:.2f} µs beyond the mapping", "under 1 µs", cost < 1e-6)
    measured = f"{theirs / ours:.0f} times cheaper ({ours * 1e6:.1f} and {theirs * 1e6:.0f} µs, mapping included)"
    yield Result("against ten `SummaryWriter.add_scalar`, back to back", measured, "200 times", theirs >= 200 * ours)


def cost_of_log(bus: EventBus, bursts: int) -> float:
    """Return the seconds of a call beyond its mapping, in bursts during which the bus is idle, as between steps."""
    log = [
        time_calls(lambda step: bus.log(metrics(step), step=step), BURST, wait_until_drained(bus))
        for _ in range(bursts)
    ]
    return statistics.median(log) - statistics.median(time_calls(metrics, BURST) for _ in range(bursts))


def wait_until_drained(bus: EventBus) -> int:
    """Wait, without sleeping, until the bus has processed all records, and return the last step.

    A core that wakes from sleep is slow at first.
    """
    while bus._thread.writer.is_behind:
        time.sleep(0)  # releases the interpreter's lock
    end = time.perf_counter() + SETTLE_SECONDS
    while time.perf_counter() < end:
        time.sleep(0)
    return bus._queue.last_step


def add_scalars(writer: SummaryWriter, step: int) -> None:
    """Write the metrics of a step, one by one."""
    for name, value in metrics(step).items():
        writer.add_scalar(name, value, step)


def time_calls(call: Callable[[int], object], calls: int, first: int = 0) -> float:
    """Return the seconds of one of `calls` consecutive calls, whose arguments are the numbers from `first` on."""
    start = time.perf_counter()
    for step in range(first, first + calls):
        call(step)
    return (time.perf_counter() - start) / calls


def step_with_ten_scalars(size: Size) -> Iterator[Result]:
    """A 200 µs step that logs ten scalars, relative to a step that logs nothing; the control logs nothing either."""
    blocks = size.of(150, 10)
    with (
        tempfile.TemporaryDirectory() as folder,
        trainwire.open_bus(Path(folder) / "run") as bus,
        trainwire.open_bus(Path(folder) / "undrained", flush_interval=1000) as undrained,
    ):
        logs = [log_nothing, log_nothing, lambda step: bus.log(metrics(step), step=step), log_and_discard(undrained)]
        base, control, ours, recorded = alternate(make_step(), logs, blocks, STEPS_PER_BLOCK)
    ratio = ratio_of_medians(ours, base, STEPS_PER_BLOCK)
    noise = ratio_of_medians(control, base, STEPS_PER_BLOCK)
    yield Result("a 200 µs step with ten scalars", f"{ratio:.3f} (control {noise:.3f})", "1.03", ratio <= 1.03)
    ratio = ratio_of_medians(recorded, base, STEPS_PER_BLOCK)
    yield Result("that step with a bus that only queues the records", f"{ratio:.3f}")
    waited, fraction = cost_of_slow_steps(ours, base)
    cost = statistics.fmean(ours) - statistics.fmean(base)
    measured = f"{waited * 1e6:.0f} of {cost * 1e6:.0f} µs a step, in {fraction:.1%} of the steps"
    yield Result("the part of this in which it waits for the writer thread", measured)
    tail = percentile(ours, 0.999) / percentile(base, 0.999)
    noise = percentile(control, 0.999) / percentile(base, 0.999)
    measured = f"{tail:.2f} (control {noise:.2f}; {percentile(base, 0.999) * 1e6:.0f} µs)"
    yield Result("99.9th percentile of that step", measured, "1.5", tail <= 1.5)


def log_and_discard(bus: EventBus) -> Callable[[int], object]:
    """Return a function that logs to a bus that never drains its queue, which is cleared at the start of a block."""

    def log(step: int) -> None:
        if step % (LEAD_IN + STEPS_PER_BLOCK) == 1:
            bus._queue.records.clear()
            bus._queue.reset_limits()
        bus.log(metrics(step), step=step)

    return log


def cost_of_slow_steps(ours: Sequence[float], base: Sequence[float]) -> tuple[float, float]:
    """Return the seconds per step due to steps of more than 4 times the median, and the fraction of such steps."""
    usual = statistics.median(base)
    slow, slow_base = ([seconds - usual for seconds in times if seconds > 4 * usual] for times in (ours, base))
    return sum(slow) / len(ours) - sum(slow_base) / len(base), len(slow) / len(ours)


def longer_step_with_ten_scalars(size: Size) -> Iterator[Result]:
    """The same for a 2 ms step, which logs a tenth as many scalars per second."""
    blocks, steps = size.of(60, 5), 20
    with tempfile.TemporaryDirectory() as folder, trainwire.open_bus(Path(folder) / "run") as bus:
        logs = [log_nothing, log_nothing, lambda step: bus.log(metrics(step), step=step)]
        base, control, ours = alternate(make_step(2e-3), logs, blocks, steps, lead_in=steps)
    ratio, noise = ratio_of_medians(ours, base, steps), ratio_of_medians(control, base, steps)
    yield Result("a 2 ms step with ten scalars", f"{ratio:.3f} (control {noise:.3f})")


INSTRUCTIONS = """
import sys, tempfile
import trainwire
names = [f"train/metric-{number}" for number in range(10)]
with tempfile.TemporaryDirectory() as folder, trainwire.open_bus(folder, flush_interval=1000) as bus:
    log = bus.log if sys.argv[2] == "log" else lambda metrics, step: None
    for step in range(int(sys.argv[1])):
        log({name: 0.5 * step for name in names}, step=step)
    bus._queue.records.clear()  # the work of the bus's threads is not counted
"""
"""Does not import torch, which takes minutes under valgrind."""


def instructions_of_log(size: Size) -> Iterator[Result]:
    """Instructions of 10,000 calls of `log`, counted by valgrind's callgrind: independent of the machine's load."""
    if not shutil.which("valgrind"):
        yield Result("instructions of 10,000 calls of `log`", "not measured: valgrind is not installed")
        return
    calls = size.of(10_000, 1_000)
    beyond = count_instructions(calls, "log") - count_instructions(calls, "nothing")
    measured = f"{beyond / 1e6:.1f} million, {beyond / calls / 10:.0f} for each scalar"
    yield Result(f"instructions of {calls:,} calls of `log`, beyond the mapping", measured)


def count_instructions(calls: int, variant: str) -> int:
    """Return the number of instructions of a process that makes this many calls, its start and end included."""
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "callgrind"
        tool = ["valgrind", "--tool=callgrind", f"--callgrind-out-file={output}", "--instr-atstart=yes"]
        command = [*tool, sys.executable, "-c", INSTRUCTIONS, str(calls), variant]
        subprocess.run(command, check=True, capture_output=True)
        totals = [line for line in output.read_text().splitlines() if line.startswith(("summary:", "totals:"))]
    return int(totals[-1].split()[1])
