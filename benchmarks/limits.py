"""The limits of this machine, and the fraction of each that the parts of Trainwire reach."""

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

from benchmarks.measurement import Size, median_of, metrics
from benchmarks.report import Result
from trainwire.bus.batcher import Batcher
from trainwire.bus.queue import FLOATS, Record, RecordQueue
from trainwire.bus.values.rejections import Rejections
from trainwire_protocol.events import Event
from trainwire_protocol.journal.segments import JournalWriter
from trainwire_protocol.wire import Batch, Header, decode_events, encode_batch

BATCH_EVENTS = 500
"""Events in a batch of a busy bus."""


def limits(size: Size) -> Iterator[Result]:
    """The rates of a bare append, codec, file and socket, and Trainwire's fraction of each."""
    yield compared("recording against a bare `deque.append`", *append_rates(size), "calls")
    yield compared("checking, numbering and packing against bare `msgpack`", *packing_rates(size), "events")
    yield compared("typed decoding against bare `msgpack`", *decoding_rates(size), "events")
    yield compared("the journal against a bare `os.write`", *disk_rates(size), "events")
    rate = socket_rate(size) * BATCH_EVENTS
    yield Result("libzmq, PUB to SUB, messages of 30 kB", f"{rate / 1e6:.1f} million events/s")


def compared(name: str, ours: float, bare: float, unit: str) -> Result:
    """Return a result that compares two rates."""
    return Result(name, f"{ours / 1e6:.2f} of {bare / 1e6:.2f} million {unit}/s: {ours / bare:.0%}")


def rate(call: Callable[[], object], calls: int, each: int = 1) -> float:
    """Return the rate of items, `each` of which are processed by a call: the median of five rounds."""

    def measure() -> float:
        start = time.perf_counter()
        for _ in range(calls):
            call()
        return calls * each / (time.perf_counter() - start)

    return median_of(5, measure)


def append_rates(size: Size) -> tuple[float, float]:
    """Return the calls per second of the queue, and of a deque's `append`."""
    calls, values = size.of(50_000, 5_000), metrics(1)
    queue: deque[object] = deque(maxlen=1000)

    def measure() -> float:
        queue = RecordQueue()
        return rate(lambda: queue.append("", values, FLOATS, 1, 10), calls // 5)

    return median_of(3, measure), rate(lambda: queue.append(values), calls)


def make_batch() -> Batch:
    rows = [
        Event(name, value, "scalar", 1.7e9, step)
        for step in range(BATCH_EVENTS // 10)
        for name, value in metrics(step).items()
    ]
    return encode_batch(Header("run", 0, 0, "event", 0, len(rows), {}), rows)


def packing_rates(size: Size) -> tuple[float, float]:
    """Return the events per second of the batcher, given records of ten scalars, and of `msgpack.packb`."""
    batcher, calls = Batcher("run", 0, 0, Rejections()), size.of(200, 20)
    records: list[Record] = [("", metrics(step), FLOATS, 1.7e9, 1000, 0) for step in range(BATCH_EVENTS // 10)]

    def pack() -> None:
        for record in records:
            batcher.add(record)
        batcher.take()

    rows = [tuple(event) for event in make_batch().events]
    return rate(pack, calls, BATCH_EVENTS), rate(lambda: msgpack.packb(rows), calls, BATCH_EVENTS)


def decoding_rates(size: Size) -> tuple[float, float]:
    """Return the events per second of the decoder, and of `msgpack.unpackb`."""
    batch, calls = make_batch(), size.of(200, 20)
    bare = rate(lambda: msgpack.unpackb(batch.body, use_list=False), calls, BATCH_EVENTS)
    return rate(lambda: decode_events(batch.body, BATCH_EVENTS), calls, BATCH_EVENTS), bare


def disk_rates(size: Size) -> tuple[float, float]:
    """Return the events per second of the journal, and of `os.write`."""
    batch, calls = make_batch(), size.of(500, 50)
    with tempfile.TemporaryDirectory() as folder:
        file = os.open(Path(folder) / "bare", os.O_WRONLY | os.O_CREAT)
        bare = rate(lambda: os.write(file, batch.body), calls, BATCH_EVENTS)
        os.close(file)
        writer = JournalWriter(Path(folder), segment_bytes=1 << 40)
        ours = rate(lambda: writer.append([batch]), calls, BATCH_EVENTS)
        writer.close()
    return ours, bare


def socket_rate(size: Size) -> float:
    """Return the messages per second, each of a batch's size, from one thread to another."""
    messages, body = size.of(20_000, 1_000), make_batch().body
    with zmq.Context() as context, context.socket(zmq.PUB) as publisher, context.socket(zmq.SUB) as subscriber:
        publisher.set_hwm(0)
        subscriber.set_hwm(0)
        publisher.bind("inproc://limits")
        subscriber.subscribe(b"")
        subscriber.connect("inproc://limits")
        sender = threading.Thread(target=lambda: [publisher.send(body, copy=False) for _ in range(messages)])
        start = time.perf_counter()
        sender.start()
        for _ in range(messages):
            subscriber.recv(copy=False)
        sender.join()
        return messages / (time.perf_counter() - start)
