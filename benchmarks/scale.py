"""How costs grow with the number of metrics, subscribers, publishers and events, and with the size of values.

python -m benchmarks.scale [--quick] [--plot FILE]
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import psutil
import zmq

import trainwire
from benchmarks.measurement import Size, median_of
from benchmarks.throughput import null_sink, record_events, temporary_bus, wait_for_reading
from trainwire.bus.bus import EventBus
from trainwire_protocol.transport.connection import connection_path, read_connection

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
"""The first bytes of a PNG, which are all that the bus checks (https://www.w3.org/TR/png-3/#5PNG-file-signature)."""

IMAGES_AT_ONCE = 20
"""At 10 MB each, they fit into the bus's queue."""


@dataclass(frozen=True)
class Growth:
    """A cost as a function of a size."""

    title: str
    x: str
    y: str
    points: Sequence[tuple[float, float]]


def metrics_a_step(size: Size) -> Growth:
    """Measure a call of `log` in the training thread, by its number of metrics."""
    points = []
    with temporary_bus() as bus:
        for count in (1, 3, 10, 30, 100, 300, 1000)[:: size.of(1, 3)]:
            values = {f"metric-{number}": 0.5 for number in range(count)}
            cost = median_of(size.of(9, 3), partial(seconds_of_log, bus, values))
            points.append((count, cost * 1e6))
    return Growth("one call of `log`", "metrics", "µs on the training thread", points)


def seconds_of_log(bus: EventBus, values: dict[str, float]) -> float:
    calls = max(20, 20_000 // len(values))
    start = time.perf_counter()
    for _ in range(calls):
        bus.log(values)
    cost = (time.perf_counter() - start) / calls
    wait_until_empty(bus)
    return cost


def wait_until_empty(bus: EventBus) -> None:
    """Wait until the bus has emptied its queue."""
    while bus._queue.records:
        time.sleep(0.002)


def subscribers(size: Size) -> Growth:
    """Measure the processor time of the publishing process for a million events, by the number of subscribers."""
    events = size.of(200_000, 20_000)
    points = [(count, publishing_seconds(count, events) * 1e6 / events) for count in (0, 1, 5, 10, 25, 50)]
    return Growth("subscribers", "subscribers", "s of a core for a million events", points)


def publishing_seconds(count: int, events: int) -> float:
    """Return the processor time of publishing to subscribers that are never read, and so drop most messages."""
    with temporary_bus() as bus, zmq.Context() as context, ExitStack() as stack:
        connection = read_connection(connection_path(bus.folder, 0))
        for _ in range(count):
            socket = stack.enter_context(context.socket(zmq.SUB))
            socket.linger = 0
            socket.rcvhwm = 10
            socket.subscribe(b"")
            socket.connect(connection.publish)
        used = time.process_time()
        record_events(bus, events)
        wait_until_empty(bus)
        return time.process_time() - used


def publishers(size: Size) -> Growth:
    """Measure the processor time of buses that each record ten scalars ten times a second."""
    points = []
    for count in (1, 16, 64, 256)[: size.of(4, 2)]:
        with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
            buses = [stack.enter_context(trainwire.open_bus(Path(folder) / str(n))) for n in range(count)]
            points.append((count, share_of_core(buses, seconds=size.of(5, 1))))
    return Growth("publishers on one host", "publishers", "% of a core", points)


def share_of_core(buses: Sequence[EventBus], seconds: float) -> float:
    """Return the processor time of recording a hundred events a second in each bus, in percent of a core."""
    values = {f"metric-{number}": 0.5 for number in range(10)}
    start, used = time.perf_counter(), time.process_time()
    while time.perf_counter() - start < seconds:
        for bus in buses:
            bus.log(values)
        time.sleep(0.1)
    return 100 * (time.process_time() - used) / (time.perf_counter() - start)


def run_length(size: Size) -> tuple[Growth, Growth]:
    """Measure the memory of the bus, and the time that a late sink takes to read the run, by the number of events."""
    memory, attach, recorded = list[tuple[float, float]](), list[tuple[float, float]](), 0
    process = psutil.Process()
    with temporary_bus() as bus:
        before = process.memory_info().rss
        for length in (10_000, 100_000, 1_000_000, 10_000_000)[: size.of(4, 2)]:
            record_events(bus, length - recorded)
            recorded = length
            wait_until_empty(bus)
            memory.append((length, (process.memory_info().rss - before) / 1e6))
    for length in (10_000, 100_000, 1_000_000, 10_000_000)[: size.of(4, 2)]:
        attach.append((length, catch_up_seconds(length)))
    return (
        Growth("memory of the publishing process", "events so far", "MB above the start", memory),
        Growth("a sink started late", "events of the run", "s to read all of them", attach),
    )


def catch_up_seconds(events: int) -> float:
    """Return the seconds that a null sink takes to read a finished run."""
    with temporary_bus() as bus:
        record_events(bus, events)
        bus.close(timeout=60.0)
        with null_sink(bus.folder) as sink:
            return wait_for_reading(sink).seconds


def value_size(size: Size) -> Growth:
    """Measure the recording of an encoded image in the training thread, by its number of bytes."""
    points = []
    with temporary_bus() as bus:
        for length in (10, 1_000, 100_000, 1_000_000, 10_000_000)[: size.of(5, 3)]:
            cost = median_of(5, partial(seconds_of_image, bus, PNG_SIGNATURE + bytes(length - len(PNG_SIGNATURE))))
            points.append((length, cost * 1e6))
    return Growth("one image", "bytes", "µs on the training thread", points)


def seconds_of_image(bus: EventBus, data: bytes) -> float:
    start = time.perf_counter()
    for _ in range(IMAGES_AT_ONCE):
        bus.image("image", data)
    cost = (time.perf_counter() - start) / IMAGES_AT_ONCE
    wait_until_empty(bus)
    assert not bus.describe()["dropped"]
    return cost


def plot(growths: Sequence[Growth], path: Path) -> None:
    """Plot each of them, with a logarithmic x-axis."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4 * 3, 3.2 * -(-len(growths) // 3)), layout="constrained")
    for growth, axes in zip(growths, figure.subplots(-(-len(growths) // 3), 3, squeeze=False).flat, strict=False):
        axes.plot(*zip(*growth.points, strict=True), marker="o")
        axes.set(title=growth.title, xlabel=growth.x, ylabel=growth.y, xscale="symlog", ylim=(0, None))
        axes.grid(alpha=0.3)
    figure.savefig(path, metadata={"Date": None})


GROWTHS: tuple[Callable[[Size], Growth | tuple[Growth, ...]], ...] = (
    metrics_a_step, value_size, subscribers, publishers, run_length,
)  # fmt: skip


def main() -> None:
    """Measure, print the points, and plot them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="measure little, to show that the benchmarks work")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="save the plots to this file")
    arguments = parser.parse_args()
    growths = list[Growth]()
    for measure in GROWTHS:
        found = measure(Size(arguments.quick))
        for growth in found if isinstance(found, tuple) else (found,):
            growths.append(growth)
            points = ", ".join(f"{x:,}: {y:.3g}" for x, y in growth.points)
            print(f"{growth.title} ({growth.y}, by {growth.x}): {points}", flush=True)
    if arguments.plot:
        plot(growths, arguments.plot)


if __name__ == "__main__":
    main()
