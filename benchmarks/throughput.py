"""How many events go through: from a publisher through its journal to a sink, live and late; and how soon."""

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
from benchmarks.hot_path import metrics
from benchmarks.result import Result, Size
from trainwire.bus.bus import EventBus

MAX_WAITING_RECORDS = 5_000
"""A twentieth of what the queue takes: a faster producer waits, since what is measured is what the bus carries."""


@dataclass(frozen=True)
class Reading:
    """What the null sink said at its end."""

    events: int
    lost: int
    seconds: float
    """Since its first batch."""
    median_delay: float
    tail_delay: float
    """The 99th percentile of the delays."""
    busy: float
    """Seconds of the processor."""


@contextmanager
def run() -> Iterator[EventBus]:
    """A bus whose run is gone afterwards."""
    with tempfile.TemporaryDirectory() as folder, trainwire.open_bus(Path(folder) / "run") as bus:
        yield bus


@contextmanager
def null_sink(folder: Path) -> Iterator[subprocess.Popen[str]]:
    """A sink beside the run, which is up."""
    command = [sys.executable, "-m", "benchmarks.null_sink", str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as sink:
        assert sink.stdout
        sink.stdout.readline()
        try:
            yield sink
        finally:
            sink.kill()


def result_of(sink: subprocess.Popen[str]) -> Reading:
    """Wait until the sink has read to the run's end."""
    assert sink.stdout
    events, lost, *seconds = sink.stdout.readline().split()
    return Reading(int(events), int(lost), *map(float, seconds))


def record_events(bus: EventBus, events: int) -> None:
    """Record scalars, ten a call, as fast as the bus carries them."""
    queue = bus._recorder.queue
    for step in range(events // 10):
        bus.log(metrics(step), step=step)
        while len(queue) > MAX_WAITING_RECORDS:
            time.sleep(0.001)


def publisher_to_sink(size: Size) -> Iterator[Result]:
    """As fast as it goes: recorded, journaled, published, read and made typed in another process."""
    events = size.of(5_000_000, 200_000)
    with run() as bus, null_sink(bus.folder) as sink:
        begun, used = time.perf_counter(), time.process_time()
        record_events(bus, events)
        bus.close(timeout=60.0)
        used = time.process_time() - used
        read = result_of(sink)
        rate = events / (time.perf_counter() - begun)
    whole = not read.lost and read.events >= events and not bus._recorder.dropped
    told = f"{rate / 1e6:.2f} million events/s, {'nothing' if whole else 'SOMETHING'} lost"
    yield Result("publisher to a typed null sink, journaled", told, "1 million/s", whole and rate >= 1e6)
    told = f"{used / events * 1e6:.2f} µs an event, those of the sink {read.busy / events * 1e6:.2f} µs"
    yield Result("processor's time of the process that publishes, recording included", told)


def recorded_to_handled(size: Size) -> Iterator[Result]:
    """The delay of events that a training records: 2,000 steps of 5 ms with ten scalars each."""
    with run() as bus, null_sink(bus.folder) as sink:
        for step in range(size.of(2_000, 200)):
            bus.log(metrics(step), step=step)
            time.sleep(0.005)
        bus.close()
        read = result_of(sink)
    told = f"median {read.median_delay * 1e3:.0f} ms, 99 % within {read.tail_delay * 1e3:.0f} ms"
    is_met = read.median_delay < 0.02 and read.tail_delay < 0.05
    yield Result("recorded to handled", told, "20 ms, 50 ms", is_met)


def late_sink(size: Size) -> Iterator[Result]:
    """A sink that is started once all is over."""
    events = size.of(1_000_000, 100_000)
    with run() as bus:
        record_events(bus, events)
        bus.close(timeout=60.0)
        with null_sink(bus.folder) as sink:
            read = result_of(sink)
    assert read.events >= events
    told = f"{read.seconds:.2f} s for {events:,} events"
    yield Result("a late typed null sink catches up", told, "3 s for 1,000,000", read.seconds < 3)


def idle_bus(size: Size) -> Iterator[Result]:
    """The processor's time that a bus takes while nothing is recorded."""
    with run():
        time.sleep(0.5)
        begun, used = time.perf_counter(), time.process_time()
        time.sleep(size.of(10, 2))
        share = (time.process_time() - used) / (time.perf_counter() - begun)
    yield Result("a bus with nothing to do", f"{share:.2%} of a core", "0.5 %", share < 0.005)
