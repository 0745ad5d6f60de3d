"""How costs are measured: side by side in one process, in short alternated blocks, and by medians.

Machines are noisy, and what else they do changes from minute to minute. Two things that take turns within
milliseconds meet the same noise, so that their ratio can be trusted where neither time can.
"""

from __future__ import annotations

import statistics
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final

import torch

STEP_SECONDS: Final = 200e-6
"""How long a step of the benchmarks takes: short, as for a small model, so that what logging costs shows."""

LEAD_IN: Final = 200
"""Steps of `STEP_SECONDS` before those that are measured: twice as long as the bus lets records wait."""

Step = Callable[[], object]
Log = Callable[[int], object]


def make_step(seconds: float = STEP_SECONDS) -> Step:
    """A step on one core of the CPU that takes about so long on this machine."""
    torch.set_num_threads(1)
    matrix, other = torch.rand(64, 64), torch.rand(64, 64)

    def work(repetitions: int) -> None:
        for _ in range(repetitions):
            torch.mm(matrix, other)

    work(1000)
    begun = time.perf_counter()
    work(1000)
    repetitions = max(1, round(seconds * 1000 / (time.perf_counter() - begun)))
    return lambda: work(repetitions)


def alternate(step: Step, logs: Sequence[Log], blocks: int, steps: int, lead_in: int = LEAD_IN) -> list[list[float]]:
    """Seconds of every step, for each way of logging, in alternated blocks of `steps` steps.

    What a way of logging leaves for later, to a thread or to the next flush, is paid for in its own blocks: each has a
    lead-in, which is not measured, so that it begins with what the same way has left behind. The order goes round.
    """
    times: list[list[float]] = [[] for _ in logs]
    ways, number = deque(zip(logs, times, strict=True)), 0
    for _ in range(blocks):
        for log, own in ways:
            time_steps(step, log, number, lead_in)
            own += time_steps(step, log, number + lead_in, steps)
            number += lead_in + steps
        ways.rotate()
    return times


def time_steps(step: Step, log: Log, number: int, steps: int) -> list[float]:
    """Seconds of each of so many steps, which are counted from behind `number`."""
    clock, times = time.perf_counter, list[float]()
    for current in range(number + 1, number + 1 + steps):
        begun = clock()
        step()
        log(current)
        times.append(clock() - begun)
    return times


def ratio_of_medians(times: Sequence[float], base: Sequence[float], block: int) -> float:
    """The ratio of the medians of the blocks' mean times: what logging costs on the whole, peaks included."""
    means = [
        statistics.median(statistics.fmean(own[first : first + block]) for first in range(0, len(own), block))
        for own in (times, base)
    ]
    return means[0] / means[1]


def best_of(rounds: int, measure: Callable[[], float]) -> float:
    """The median of several rounds."""
    return statistics.median(measure() for _ in range(rounds))
