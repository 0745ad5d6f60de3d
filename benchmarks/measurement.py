"""Measurements shared by the benchmarks: the workload, alternating blocks, and robust statistics.

Machines are noisy, and the noise changes from minute to minute. What is compared therefore alternates within one
process, in blocks of milliseconds: both sides meet the same noise, so that their ratio is reliable even where neither
time is.
"""

from __future__ import annotations

import statistics
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

STEP_SECONDS: Final = 200e-6
"""Duration of a step: short, as for a small model, so that the cost of logging is visible."""

LEAD_IN: Final = 200
"""Steps of `STEP_SECONDS` before those that are measured: twice the bus's flush interval."""

METRICS: Final = [f"train/metric-{number}" for number in range(10)]

Step = Callable[[], object]
Log = Callable[[int], object]


@dataclass(frozen=True)
class Size:
    """The size of a benchmark: full, or quick, which only shows that the benchmark works."""

    quick: bool

    def of(self, full: int, quick: int) -> int:
        """Return the number for this size."""
        return quick if self.quick else full


def metrics(step: int) -> dict[str, float]:
    """Return ten metrics, whose values change with each step."""
    value = 0.5 * step
    return {name: value for name in METRICS}  # noqa: C420  # a training builds its mapping item by item


def log_nothing(*_: object) -> None:
    """Stand in for logging in the steps that everything else is compared with."""


def make_step(seconds: float = STEP_SECONDS) -> Step:
    """Return a function that computes on one core for about `seconds`."""
    import torch  # not needed by `null_sink`, which imports this module

    torch.set_num_threads(1)
    matrix, other = torch.rand(64, 64), torch.rand(64, 64)

    def work(repetitions: int) -> None:
        for _ in range(repetitions):
            torch.mm(matrix, other)

    work(1000)
    start = time.perf_counter()
    work(1000)
    repetitions = max(1, round(seconds * 1000 / (time.perf_counter() - start)))
    return lambda: work(repetitions)


def alternate(step: Step, logs: Sequence[Log], blocks: int, steps: int, lead_in: int = LEAD_IN) -> list[list[float]]:
    """Return the seconds of every step for each of `logs`, measured in alternating blocks of `steps` steps.

    Each block begins with a lead-in that is not measured, so that the work that a way of logging defers, to a thread or
    to the next flush, falls into its own blocks. The order rotates.
    """
    times: list[list[float]] = [[] for _ in logs]
    order, number = deque(zip(logs, times, strict=True)), 0
    for _ in range(blocks):
        for log, own_times in order:
            time_steps(step, log, number, lead_in)
            own_times += time_steps(step, log, number + lead_in, steps)
            number += lead_in + steps
        order.rotate()
    return times


def time_steps(step: Step, log: Log, number: int, steps: int) -> list[float]:
    """Return the seconds of each of `steps` steps, the first of which is step `number + 1`."""
    clock, times = time.perf_counter, list[float]()
    for current in range(number + 1, number + 1 + steps):
        start = clock()
        step()
        log(current)
        times.append(clock() - start)
    return times


def ratio_of_medians(times: Sequence[float], base: Sequence[float], block: int) -> float:
    """Return the ratio of the medians over blocks of the mean time in a block, which includes the slow steps."""

    def median(seconds: Sequence[float]) -> float:
        return statistics.median(
            statistics.fmean(seconds[first : first + block]) for first in range(0, len(seconds), block)
        )

    return median(times) / median(base)


def median_of(rounds: int, measure: Callable[[], float]) -> float:
    """Return the median of several measurements."""
    return statistics.median(measure() for _ in range(rounds))


def percentile(times: Sequence[float], fraction: float) -> float:
    """Return the time below which lies `fraction` of the times."""
    ordered = sorted(times)
    return ordered[min(len(ordered) - 1, int(fraction * len(ordered)))]
