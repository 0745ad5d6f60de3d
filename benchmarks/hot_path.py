"""What the training thread pays: one call of `log`, a step, the slowest steps."""

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
from benchmarks.measuring import LEAD_IN, alternate, best_of, make_step, ratio_of_medians
from benchmarks.percentiles import percentile
from benchmarks.result import Result, Size
from trainwire.bus.bus import EventBus

NAMES = [f"train/metric-{number}" for number in range(10)]
STEPS_PER_BLOCK = 200
BURST = 200
SETTLE_SECONDS = 0.005
"""What the bus still has to do, on its own threads, with what it has taken from the queue."""


def log_ten_floats(size: Size) -> Iterator[Result]:
    """`bus.log` of ten floats beyond building the mapping, and against ten `SummaryWriter.add_scalar`."""
    calls = size.of(20_000, 2_000)
    with tempfile.TemporaryDirectory() as folder:
        with trainwire.open_bus(Path(folder) / "run") as bus:
            cost = cost_of_log(bus, size.of(300, 30))
            ours = best_of(15, lambda: time_calls(lambda step: bus.log(metrics(step), step=step), calls))
        writer = SummaryWriter(f"{folder}/tensorboard")
        theirs = best_of(3, lambda: time_calls(lambda step: add_scalars(writer, step), calls // 20))
        writer.close()
    yield Result("`log` of ten floats", f"{cost * 1e6:.2f} µs beyond the mapping", "under 1 µs", cost < 1e-6)
    told = f"{theirs / ours:.0f} times cheaper ({ours * 1e6:.1f} and {theirs * 1e6:.0f} µs, mapping included)"
    yield Result("against ten `SummaryWriter.add_scalar`, back to back", told, "200 times", theirs >= 200 * ours)


def cost_of_log(bus: EventBus, bursts: int) -> float:
    """Seconds of a call, beyond its mapping, in bursts that nothing works beside, as between steps."""
    log = [time_calls(lambda step: bus.log(metrics(step), step=step), BURST, drained(bus)) for _ in range(bursts)]
    return statistics.median(log) - statistics.median(time_calls(metrics, BURST) for _ in range(bursts))


def drained(bus: EventBus) -> int:
    """Wait until the bus has done with all that was recorded, without rest: a core that wakes is slow at first."""
    publisher = bus._thread.publisher
    while bus._recorder.queue or (publisher and publisher.is_behind):
        time.sleep(0)  # gives the interpreter's lock away, and comes back at once
    begun = time.perf_counter()
    while time.perf_counter() < begun + SETTLE_SECONDS:
        time.sleep(0)
    return bus._recorder.last_step


def metrics(step: int) -> dict[str, float]:
    """What a step logs: as different from the step before as numbers are."""
    value = 0.5 * step
    return {name: value for name in NAMES}  # noqa: C420  # a training builds its mapping item by item


def nothing(_: int) -> None:
    """What a step without logging logs."""


def add_scalars(writer: SummaryWriter, step: int) -> None:
    for name, value in metrics(step).items():
        writer.add_scalar(name, value, step)


def time_calls(call: Callable[[int], object], calls: int, first: int = 0) -> float:
    """Seconds of one call, back to back; the calls get numbers from `first` on."""
    begun = time.perf_counter()
    for step in range(first, first + calls):
        call(step)
    return (time.perf_counter() - begun) / calls


def step_with_ten_scalars(size: Size) -> Iterator[Result]:
    """A step of 200 µs that logs ten scalars against one that logs nothing, beside none against none."""
    blocks = size.of(150, 10)
    with (
        tempfile.TemporaryDirectory() as folder,
        trainwire.open_bus(Path(folder) / "run") as bus,
        trainwire.open_bus(Path(folder) / "kept", flush_interval=1000) as keeping,
    ):
        logs = [nothing, nothing, lambda step: bus.log(metrics(step), step=step), forgetting(keeping)]
        none, control, ours, recorded = alternate(make_step(), logs, blocks, STEPS_PER_BLOCK)
    ratio = ratio_of_medians(ours, none, STEPS_PER_BLOCK)
    noise = ratio_of_medians(control, none, STEPS_PER_BLOCK)
    yield Result(
        "a 200 µs step with ten scalars", f"{ratio:.3f} (none against none {noise:.3f})", "1.03", ratio <= 1.03
    )
    ratio = ratio_of_medians(recorded, none, STEPS_PER_BLOCK)
    yield Result("that step with a bus that leaves in the queue what is recorded", f"{ratio:.3f}")
    waited, share = waiting(ours, none)
    cost = statistics.fmean(ours) - statistics.fmean(none)
    told = f"{waited * 1e6:.0f} of {cost * 1e6:.0f} µs a step, in {share:.1%} of the steps"
    yield Result("of what the bus costs it, waits for the journal's thread", told)
    tail = percentile(ours, 0.999) / percentile(none, 0.999)
    noise = percentile(control, 0.999) / percentile(none, 0.999)
    told = f"{tail:.2f} (none against none {noise:.2f}; {percentile(none, 0.999) * 1e6:.0f} µs)"
    yield Result("99.9th percentile of that step", told, "1.5", tail <= 1.5)


def forgetting(bus: EventBus) -> Callable[[int], object]:
    """Logs to a bus that takes nothing out of its queue, which is emptied where a block begins."""

    def log(step: int) -> None:
        if step % (LEAD_IN + STEPS_PER_BLOCK) == 1:
            bus._recorder.queue.clear()
            bus._recorder.emptied()
        bus.log(metrics(step), step=step)

    return log


def waiting(ours: Sequence[float], none: Sequence[float]) -> tuple[float, float]:
    """Seconds a step that are due to steps several times as long as others, and how many of the steps are so."""
    usual = statistics.median(none)
    long = [[seconds - usual for seconds in times if seconds > 4 * usual] for times in (ours, none)]
    return sum(long[0]) / len(ours) - sum(long[1]) / len(none), len(long[0]) / len(ours)


def longer_step_with_ten_scalars(size: Size) -> Iterator[Result]:
    """The same for a step of 2 ms, at which a tenth as many scalars come to the bus."""
    blocks, steps = size.of(60, 5), 20
    with tempfile.TemporaryDirectory() as folder, trainwire.open_bus(Path(folder) / "run") as bus:
        logs = [nothing, nothing, lambda step: bus.log(metrics(step), step=step)]
        none, control, ours = alternate(make_step(2e-3), logs, blocks, steps, lead_in=steps)
    ratio, noise = ratio_of_medians(ours, none, steps), ratio_of_medians(control, none, steps)
    yield Result("a 2 ms step with ten scalars", f"{ratio:.3f} (none against none {noise:.3f})")


INSTRUCTIONS = """
import sys, tempfile
import trainwire
names = [f"train/metric-{number}" for number in range(10)]
with tempfile.TemporaryDirectory() as folder, trainwire.open_bus(folder, flush_interval=1000) as bus:
    log = bus.log if sys.argv[2] == "log" else lambda metrics, step: None
    for step in range(int(sys.argv[1])):
        log({name: 0.5 * step for name in names}, step=step)
    bus._recorder.queue.clear()  # what the bus would do with it is not counted
"""
"""It loads no torch, which takes minutes under valgrind."""


def instructions_of_log(size: Size) -> Iterator[Result]:
    """Instructions of 10,000 calls, which do not depend on what else the machine does: by valgrind's callgrind."""
    if not shutil.which("valgrind"):
        yield Result("instructions of 10,000 calls of `log`", "not measured: there is no valgrind here")
        return
    calls = size.of(10_000, 1_000)
    counted, mapping = count_instructions(calls, "log"), count_instructions(calls, "nothing")
    told = f"{(counted - mapping) / 1e6:.1f} million, {(counted - mapping) / calls / 10:.0f} for each scalar"
    yield Result(f"instructions of {calls:,} calls of `log`, beyond the mapping", told)


def count_instructions(calls: int, what: str) -> int:
    """Of a process that makes so many calls, with all that it does at its start and end."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "callgrind"
        tool = ["valgrind", "--tool=callgrind", f"--callgrind-out-file={out}", "--instr-atstart=yes"]
        command = [*tool, sys.executable, "-c", INSTRUCTIONS, str(calls), what]
        subprocess.run(command, check=True, capture_output=True)
        totals = [line for line in out.read_text().splitlines() if line.startswith(("summary:", "totals:"))]
    return int(totals[-1].split()[1])
