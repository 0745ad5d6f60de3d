"""How long the journal's thread keeps the interpreter's lock from the training thread, whatever is queued."""

from __future__ import annotations

import time
from collections.abc import Iterator
from unittest import mock

from benchmarks.hot_path import metrics
from benchmarks.percentiles import percentile
from benchmarks.result import Result, Size
from benchmarks.throughput import run
from trainwire.bus.bus import EventBus
from trainwire.bus.drain import Drain

LIMIT_SECONDS = 1e-3


def interpreter_lock(size: Size) -> Iterator[Result]:
    """What that thread does in one go, and the times that a thread which looks at the clock all along is held up."""
    holds, records = list[float](), size.of(100_000, 10_000)
    with run() as bus, mock.patch.object(Drain, "_pack_slice", timed(holds)):
        idle = gaps(bus, 0, seconds=size.of(3, 1))
        busy = gaps(bus, records, seconds=size.of(3, 1))
    longest = percentile(holds, 0.999)
    told = f"{percentile(holds, 0.5) * 1e3:.2f} ms in the median, 99.9 % within {longest * 1e3:.2f} ms"
    yield Result("what the journal's thread does in one go", told, "under 1 ms", longest < LIMIT_SECONDS)
    told = f"{percentile(busy, 0.5) * 1e3:.2f} ms in the median (longest without the bus {max(idle) * 1e3:.2f} ms)"
    yield Result("gaps in which the training thread waits for the lock", told)


def timed(holds: list[float]) -> object:
    """The drain's step from one release of the lock to the next, which notes what it takes of the processor."""
    pack_slice = Drain._pack_slice

    def timed_slice(drain: Drain) -> None:
        begun = time.thread_time()
        pack_slice(drain)
        holds.append(time.thread_time() - begun)

    return timed_slice


def gaps(bus: EventBus, records: int, seconds: float) -> list[float]:
    """Times above 50 µs in which a busy thread did not run, while the bus works on so many records."""
    for step in range(1, records + 1):
        bus.log(metrics(step), step=bus._recorder.last_step + 1)
    found, clock = [0.0], time.perf_counter
    last = end = clock()
    end += seconds
    while last < end and (not records or bus._recorder.queue):
        now = clock()
        if now - last > 50e-6:
            found.append(now - last)
        last = now
    return found[1:] or found
