"""How long the writer thread holds the interpreter's lock while the training thread runs."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from unittest import mock

from benchmarks.measurement import Size, metrics, percentile
from benchmarks.report import Result
from benchmarks.throughput import temporary_bus
from trainwire.bus.bus import EventBus
from trainwire.bus.writer import Writer

LIMIT_SECONDS = 1e-3
GAP_SECONDS = 50e-6


def interpreter_lock(size: Size) -> Iterator[Result]:
    """The work of that thread between two releases of the lock, and the gaps in a thread that never rests."""
    holds, records = list[float](), size.of(100_000, 10_000)
    with temporary_bus() as bus, mock.patch.object(Writer, "_pack_slice", timed_pack_slice(holds)):
        idle = gaps(bus, 0, seconds=size.of(3, 1))
        busy = gaps(bus, records, seconds=size.of(3, 1))
    longest = percentile(holds, 0.999)
    measured = f"{percentile(holds, 0.5) * 1e3:.2f} ms in the median, 99.9 % within {longest * 1e3:.2f} ms"
    yield Result(
        "the longest work of the writer thread without a pause", measured, "under 1 ms", longest < LIMIT_SECONDS
    )
    measured = f"{percentile(busy, 0.5) * 1e3:.2f} ms in the median (longest without the bus {max(idle) * 1e3:.2f} ms)"
    yield Result("gaps in which the training thread waits for the lock", measured)


def timed_pack_slice(holds: list[float]) -> Callable[[Writer], None]:
    """Wrap `Writer._pack_slice`, which runs from one release of the lock to the next, to append its processor time."""
    pack_slice = Writer._pack_slice

    def timed(writing: Writer) -> None:
        start = time.thread_time()
        pack_slice(writing)
        holds.append(time.thread_time() - start)

    return timed


def gaps(bus: EventBus, records: int, seconds: float) -> list[float]:
    """Return the times above 50 µs in which a busy thread did not run, while the bus processes this many records."""
    for step in range(1, records + 1):
        bus.log(metrics(step), step=bus._queue.last_step + 1)
    found, clock = [0.0], time.perf_counter
    last = clock()
    end = last + seconds
    while last < end and (not records or bus._queue.records):
        now = clock()
        if now - last > GAP_SECONDS:
            found.append(now - last)
        last = now
    return found[1:] or found
