"""How long the bus thread keeps the interpreter's lock from the training thread, whatever is queued."""

from __future__ import annotations

import time
from collections.abc import Iterator

from benchmarks.hot_path import metrics
from benchmarks.percentiles import percentile
from benchmarks.result import Result, Size
from benchmarks.throughput import run
from trainwire.bus import EventBus


def interpreter_lock(size: Size) -> Iterator[Result]:
    """The longest time between two looks at the clock of a thread that does nothing else, while much is queued."""
    with run() as bus:
        idle = gaps(bus, 0, seconds=size.of(3, 1))
        busy = gaps(bus, size.of(100_000, 10_000), seconds=size.of(3, 1))
    told = f"{percentile(busy, 0.5) * 1e3:.2f} ms in the median (longest without the bus {max(idle) * 1e3:.2f} ms)"
    yield Result("gaps in which the training thread waits for the lock", told)


def gaps(bus: EventBus, records: int, seconds: float) -> list[float]:
    """Times above 50 µs in which a busy thread did not run, while the bus works on so many records."""
    for step in range(records):
        bus.log(metrics(step), step=step)
    found, clock = [0.0], time.perf_counter
    last = end = clock()
    end += seconds
    while last < end and (not records or bus._recorder.queue):
        now = clock()
        if now - last > 50e-6:
            found.append(now - last)
        last = now
    return found[1:] or found
