"""How costs grow: with metrics a step, subscribers, publishers, the run's length, and the size of values.

python -m benchmarks.scale [--quick] [--plot FILE] draws a plot of each.
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
from benchmarks.measuring import best_of
from benchmarks.result import Size
from benchmarks.throughput import null_sink, record_events, result_of, run
from trainwire.bus.bus import EventBus
from trainwire_protocol.transport.connection import connection_path, read_connection

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
"""What a PNG begins with; the bus looks at no more of it (https://www.w3.org/TR/png-3/#5PNG-file-signature)."""

IMAGES_AT_ONCE = 20
"""Fewer bytes than the bus's queue takes, at 10 MB each."""


@dataclass(frozen=True)
class Growth:
    """A cost for each of several sizes."""

    title: str
    x: str
    y: str
    points: Sequence[tuple[float, float]]


def metrics_a_step(size: Size) -> Growth:
    """What one call of `log` costs the training thread, by the number of its metrics."""
    points = []
    with run() as bus:
        for count in (1, 3, 10, 30, 100, 300, 1000)[:: size.of(1, 3)]:
            values = {f"metric-{number}": 0.5 for number in range(count)}
            cost = best_of(size.of(9, 3), partial(seconds_of_log, bus, values))
            points.append((count, cost * 1e6))
    return Growth("one call of `log`", "metrics", "µs on the training thread", points)


def seconds_of_log(bus: EventBus, values: dict[str, float]) -> float:
    calls = max(20, 20_000 // len(values))
    begun = time.perf_counter()
    for _ in range(calls):
        bus.log(values)
    cost = (time.perf_counter() - begun) / calls
    wait_until_empty(bus)
    return cost


def wait_until_empty(bus: EventBus) -> None:
    """Wait until the bus has taken everything."""
    while bus._recorder.queue:
        time.sleep(0.002)


def subscribers(size: Size) -> Growth:
    """The processor's time of the publishing process for a million events, by the number of subscribers."""
    events = size.of(200_000, 20_000)
    points = [(count, publishing_seconds(count, events) * 1e6 / events) for count in (0, 1, 5, 10, 25, 50)]
    return Growth("subscribers", "subscribers", "s of a core for a million events", points)


def publishing_seconds(count: int, events: int) -> float:
    """What publishing takes of the processor; the subscribers are read by nobody and drop what they cannot hold."""
    with run() as bus, zmq.Context() as context, ExitStack() as stack:
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
    """The processor's time that idle-ish buses take: each records ten scalars ten times a second."""
    points = []
    for count in (1, 16, 64, 256)[: size.of(4, 2)]:
        with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
            buses = [stack.enter_context(trainwire.open_bus(Path(folder) / str(n))) for n in range(count)]
            points.append((count, share_of_core(buses, seconds=size.of(5, 1))))
    return Growth("publishers on one host", "publishers", "% of a core", points)


def share_of_core(buses: Sequence[EventBus], seconds: float) -> float:
    """What recording a hundred events a second in each takes, in percent."""
    values = {f"metric-{number}": 0.5 for number in range(10)}
    begun, used = time.perf_counter(), time.process_time()
    while time.perf_counter() - begun < seconds:
        for bus in buses:
            bus.log(values)
        time.sleep(0.1)
    return 100 * (time.process_time() - used) / (time.perf_counter() - begun)


def run_length(size: Size) -> tuple[Growth, Growth]:
    """The memory that the bus has taken, and how long a late sink reads, by the events of the run."""
    memory, attach, recorded = list[tuple[float, float]](), list[tuple[float, float]](), 0
    process = psutil.Process()
    with run() as bus:
        before = process.memory_info().rss
        for length in (10_000, 100_000, 1_000_000, 10_000_000)[: size.of(4, 2)]:
            record_events(bus, length - recorded)
            recorded = length
            wait_until_empty(bus)
            memory.append((length, (process.memory_info().rss - before) / 1e6))
    for length in (10_000, 100_000, 1_000_000, 10_000_000)[: size.of(4, 2)]:
        attach.append((length, catch_up_seconds(length)))
    return (
        Growth("memory of the publishing process", "events so far", "MB more than at its start", memory),
        Growth("a sink that is started late", "events of the run", "s until it has read them", attach),
    )


def catch_up_seconds(events: int) -> float:
    """How long a null sink reads a finished run."""
    with run() as bus:
        record_events(bus, events)
        bus.close(timeout=60.0)
        with null_sink(bus.folder) as sink:
            return result_of(sink).seconds


def value_size(size: Size) -> Growth:
    """What recording the bytes of an image costs the training thread, by their number."""
    points = []
    with run() as bus:
        for length in (10, 1_000, 100_000, 1_000_000, 10_000_000)[: size.of(5, 3)]:
            cost = best_of(5, partial(seconds_of_image, bus, PNG_SIGNATURE + bytes(length - len(PNG_SIGNATURE))))
            points.append((length, cost * 1e6))
    return Growth("one image", "bytes", "µs on the training thread", points)


def seconds_of_image(bus: EventBus, data: bytes) -> float:
    begun = time.perf_counter()
    for _ in range(IMAGES_AT_ONCE):
        bus.image("image", data)
    cost = (time.perf_counter() - begun) / IMAGES_AT_ONCE
    wait_until_empty(bus)
    assert not bus.describe()["dropped"]
    return cost


def plot(growths: Sequence[Growth], path: Path) -> None:
    """Draw them side by side, with logarithmic axes."""
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
    """Measure each, print the points, and draw them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--plot", type=Path, metavar="FILE")
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
