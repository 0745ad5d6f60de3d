"""Throughput and latency from a publisher to a sink, live and late, and the cost of an idle bus."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import trainwire
from benchmarks.measurement import Size, metrics
from benchmarks.report import Result
from trainwire.bus.bus import EventBus

MAX_QUEUED_RECORDS = 5_000
"""A twentieth of the queue's capacity. A faster producer waits, since the throughput of the bus is measured."""


@dataclass(frozen=True)
class Reading:
    """The second line that a null sink prints."""

    events: int
    lost: int
    seconds: float
    """Since the first batch."""
    median_delay: float
    tail_delay: float
    """The 99th percentile of the delays."""
    processor_seconds: float


@contextmanager
def temporary_bus() -> Iterator[EventBus]:
    """Open a bus in a temporary folder."""
    with tempfile.TemporaryDirectory() as folder, trainwire.open_bus(Path(folder) / "run") as bus:
        yield bus


@contextmanager
def null_sink(folder: Path) -> Iterator[subprocess.Popen[str]]:
    """Run a null sink that has received its first batch."""
    command = [sys.executable, "-m", "benchmarks.null_sink", str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as sink:
        assert sink.stdout
        sink.stdout.readline()
        try:
            yield sink
        finally:
            sink.kill()


def wait_for_reading(sink: subprocess.Popen[str]) -> Reading:
    """Return the figures of a null sink, once it has read the run to its end."""
    assert sink.stdout
    events, lost, *seconds = sink.stdout.readline().split()
    return Reading(int(events), int(lost), *map(float, seconds))


def record_events(bus: EventBus, events: int) -> None:
    """Record scalars, ten per call, as fast as the bus processes them."""
    queue = bus._queue.records
    for step in range(events // 10):
        bus.log(metrics(step), step=step)
        while len(queue) > MAX_QUEUED_RECORDS:
            time.sleep(0.001)


def publisher_to_sink(size: Size) -> Iterator[Result]:
    """The maximum rate of events that are recorded, journaled, published, and decoded in another process."""
    events = size.of(5_000_000, 200_000)
    with temporary_bus() as bus, null_sink(bus.folder) as sink:
        start, used = time.perf_counter(), time.process_time()
        record_events(bus, events)
        bus.close(timeout=60.0)
        used = time.process_time() - used
        reading = wait_for_reading(sink)
        rate = events / (time.perf_counter() - start)
    is_complete = not reading.lost and reading.events >= events and not bus._queue.dropped
    measured = f"{rate / 1e6:.2f} million events/s, {'nothing' if is_complete else 'SOMETHING'} lost"
    is_met = is_complete and rate >= 1e6
    yield Result("publisher to a typed null sink, journaled", measured, "1 million/s", is_met)
    measured = f"{used / events * 1e6:.2f} µs an event; of the sink {reading.processor_seconds / events * 1e6:.2f} µs"
    yield Result("processor time of the publishing process, recording included", measured)


def recorded_to_handled(size: Size) -> Iterator[Result]:
    """The delay of the events of 2,000 steps of 5 ms with ten scalars each."""
    with temporary_bus() as bus, null_sink(bus.folder) as sink:
        for step in range(size.of(2_000, 200)):
            bus.log(metrics(step), step=step)
            time.sleep(0.005)
        bus.close()
        reading = wait_for_reading(sink)
    measured = f"median {reading.median_delay * 1e3:.0f} ms, 99 % within {reading.tail_delay * 1e3:.0f} ms"
    is_met = reading.median_delay < 0.02 and reading.tail_delay < 0.05
    yield Result("recorded to handled", measured, "20 ms, 50 ms", is_met)


def late_sink(size: Size) -> Iterator[Result]:
    """The time in which a sink that is started after the end of a run reads it."""
    events = size.of(1_000_000, 100_000)
    with temporary_bus() as bus:
        record_events(bus, events)
        bus.close(timeout=60.0)
        with null_sink(bus.folder) as sink:
            reading = wait_for_reading(sink)
    assert reading.events >= events
    measured = f"{reading.seconds:.2f} s for {events:,} events"
    yield Result("a late typed null sink catches up", measured, "3 s for 1,000,000", reading.seconds < 3)


def idle_bus(size: Size) -> Iterator[Result]:
    """The processor time of a bus while nothing is recorded."""
    with temporary_bus():
        time.sleep(0.5)
        start, used = time.perf_counter(), time.process_time()
        time.sleep(size.of(10, 2))
        fraction = (time.process_time() - used) / (time.perf_counter() - start)
    yield Result("an idle bus", f"{fraction:.2%} of a core", "0.5 %", fraction < 0.005)
