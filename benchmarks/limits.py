"""What this machine can do at all, and what share of it the parts of Trainwire reach."""

from __future__ import annotations

import os
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path

import msgpack
import zmq

from benchmarks.hot_path import metrics
from benchmarks.measuring import best_of
from benchmarks.result import Result, Size
from trainwire.bus.batcher import Batcher
from trainwire.bus.queue import FLOATS, Record, Recorder
from trainwire.bus.rejections import Rejections
from trainwire_protocol.events import Event
from trainwire_protocol.journal.segments import JournalWriter
from trainwire_protocol.wire import Batch, Header, decode_events, encode_batch

BATCH = 500
"""Events in a batch, as the bus makes them when it is busy."""


def limits(size: Size) -> Iterator[Result]:
    """A bare append, the bare codec, bare sockets and a bare file, and Trainwire's share of each."""
    yield share("recording against a bare `deque.append`", *append_rates(size), "calls")
    yield share("checking, numbering and packing against bare `msgpack`", *packing_rates(size), "events")
    yield share("typed decoding against bare `msgpack`", *decode_rates(size), "events")
    yield share("the journal against a bare `os.write`", *disk_rates(size), "events")
    yield Result("libzmq, PUB to SUB, messages of 30 kB", f"{socket_rate(size) * BATCH / 1e6:.1f} million events/s")


def share(name: str, ours: float, bare: float, what: str) -> Result:
    """A row that compares two rates."""
    return Result(name, f"{ours / 1e6:.2f} of {bare / 1e6:.2f} million {what}/s: {ours / bare:.0%}")


def rate(call: Callable[[], object], calls: int, each: int = 1) -> float:
    """Things a second, where each call does `each` of them: the median of five rounds."""

    def measure() -> float:
        begun = time.perf_counter()
        for _ in range(calls):
            call()
        return calls * each / (time.perf_counter() - begun)

    return best_of(5, measure)


def append_rates(size: Size) -> tuple[float, float]:
    calls, values = size.of(50_000, 5_000), metrics(1)
    queue: deque[object] = deque(maxlen=1000)

    def measure() -> float:
        recorder = Recorder()
        return rate(lambda: recorder.append("", values, FLOATS, 1, 10), calls // 5)

    return best_of(3, measure), rate(lambda: queue.append(values), calls)


def batch_of(events: int = BATCH) -> Batch:
    rows = [Event(name, value, "scalar", 1.7e9, step) for step in range(events // 10) for name, value in rows_of(step)]
    return encode_batch(Header("run", 0, 0, "event", 0, len(rows), {}), rows)


def rows_of(step: int) -> list[tuple[str, float]]:
    return list(metrics(step).items())


def packing_rates(size: Size) -> tuple[float, float]:
    """What the drain does with records of ten scalars, and `msgpack` with the same events."""
    batcher, calls = Batcher("run", 0, 0, Rejections()), size.of(200, 20)
    records: list[Record] = [("", metrics(step), FLOATS, 1.7e9, 1000, 0) for step in range(BATCH // 10)]

    def pack() -> None:
        for record in records:
            batcher.add(record)
        batcher.take()

    rows = [tuple(event) for event in batch_of().events]
    return rate(pack, calls, BATCH), rate(lambda: msgpack.packb(rows), calls, BATCH)


def decode_rates(size: Size) -> tuple[float, float]:
    batch, calls = batch_of(), size.of(200, 20)
    bare = rate(lambda: msgpack.unpackb(batch.body, use_list=False), calls, BATCH)
    return rate(lambda: decode_events(batch.body, BATCH), calls, BATCH), bare


def disk_rates(size: Size) -> tuple[float, float]:
    batch, calls = batch_of(), size.of(500, 50)
    with tempfile.TemporaryDirectory() as folder:
        file = os.open(Path(folder) / "bare", os.O_WRONLY | os.O_CREAT)
        bare = rate(lambda: os.write(file, batch.body), calls, BATCH)
        os.close(file)
        writer = JournalWriter(Path(folder), segment_bytes=1 << 40)
        ours = rate(lambda: writer.append([batch]), calls, BATCH)
        writer.close()
    return ours, bare


def socket_rate(size: Size) -> float:
    """Messages of a batch's size a second, from one thread to another."""
    messages, body = size.of(20_000, 1_000), batch_of().body
    with zmq.Context() as context, context.socket(zmq.PUB) as publisher, context.socket(zmq.SUB) as subscriber:
        publisher.set_hwm(0)
        subscriber.set_hwm(0)
        publisher.bind("inproc://limits")
        subscriber.subscribe(b"")
        subscriber.connect("inproc://limits")
        sending = threading.Thread(target=lambda: [publisher.send(body, copy=False) for _ in range(messages)])
        begun = time.perf_counter()
        sending.start()
        for _ in range(messages):
            subscriber.recv(copy=False)
        sending.join()
        return messages / (time.perf_counter() - begun)
