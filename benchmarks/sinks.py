"""What the sinks do a second, against TensorBoard's own writer where there is one."""

from __future__ import annotations

import contextlib
import gc
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from tensorboard.compat.proto.event_pb2 import Event as EventProto
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.event_file_writer import EventFileWriter

from benchmarks.hot_path import metrics
from benchmarks.result import Result, Size
from trainwire_protocol.events import Event
from trainwire_protocol.wire import Batch, decode_batch
from trainwire_sinks.builtin.jsonl import JsonLines
from trainwire_sinks.builtin.log_file import LogFile
from trainwire_sinks.builtin.loss_file import LossFile
from trainwire_sinks.builtin.tensorboard import TensorBoard
from trainwire_sinks.cli import COLLECT_AFTER
from trainwire_sinks.runtime.base import Sink
from trainwire_sinks.testing.check_sink import record, run_sink

BATCH = 500
"""Events in a batch, as the bus makes them when it is busy."""


def tensorboard_sink(size: Size) -> Iterator[Result]:
    """Ten scalars a step into event files, against `EventFileWriter` doing the same."""
    events = size.of(200_000, 20_000)
    ours = rate_of(TensorBoard(), scalars(events))
    theirs = tensorboard_writer_rate(events // 10)
    told = f"{ours:,.0f} events/s, {ours / theirs:.1f} times `EventFileWriter`'s {theirs:,.0f}"
    yield Result("the TensorBoard sink", told, "10 times", ours >= 10 * theirs)


def file_sinks(size: Size) -> Iterator[Result]:
    """The sinks that write one file, each with what it writes."""
    events = size.of(200_000, 20_000)
    work = {LossFile: scalars(events), LogFile: logs(events), JsonLines: scalars(events)}
    for kind, recorded in work.items():
        rate = rate_of(kind(), recorded)
        yield Result(f"the {kind.name} sink", f"{rate:,.0f} events/s", "200,000", rate >= 200_000)


def scalars(count: int) -> list[Event]:
    """Ten a step, as a training records them, and the end of an epoch after every hundredth."""
    events = []
    for step in range(count // 10):
        walltime = 1.7e9 + 0.01 * step
        events += [Event(name, value, "scalar", walltime, step) for name, value in metrics(step).items()]
        if step % 100 == 99:
            events.append(Event("epoch/finished", {"epoch": step // 100}, "lifecycle", walltime, step))
    return events


def logs(count: int) -> list[Event]:
    """What a program logs."""
    value = {"level": "INFO", "logger": "trainwire", "message": "epoch 1 - batch 10/100 - loss 0.5123 - 1.2 s"}
    return [Event("log", value, "log", 1.7e9 + 0.01 * number, number) for number in range(count)]


def rate_of(sink: Sink, events: list[Event]) -> float:
    """Events a second through a sink, from encoded batches to its output, commits included."""
    batches = Encoded(record([events[first : first + BATCH] for first in range(0, len(events), BATCH)]))
    with tempfile.TemporaryDirectory() as folder, as_in_a_sink():
        begun = time.perf_counter()
        run_sink(lambda: sink, Path(folder), batches)
        return len(events) / (time.perf_counter() - begun)


@contextlib.contextmanager
def as_in_a_sink() -> Iterator[None]:
    """Collect garbage as seldom as the `trainwire` command does in its process."""
    before = gc.get_threshold()
    gc.set_threshold(COLLECT_AFTER)
    try:
        yield
    finally:
        gc.set_threshold(*before)


class Encoded(Sequence[Batch]):
    """Batches whose events are made when they are asked for and then let go, as those of a subscription are."""

    def __init__(self, batches: list[Batch]) -> None:
        self._frames = [(batch.header_bytes, batch.body) for batch in batches]

    def __len__(self) -> int:
        return len(self._frames)

    def __getitem__(self, at: int) -> Batch:  # type: ignore[override]  # slices are not needed
        return decode_batch(*self._frames[at])


def tensorboard_writer_rate(events: int) -> float:
    """Events a second through TensorBoard's own writer, until they are on disk."""
    with tempfile.TemporaryDirectory() as folder:
        begun = time.perf_counter()
        writer = EventFileWriter(folder)
        for event in scalars(events):
            if event.type == "scalar":
                value = Summary.Value(tag=event.name, simple_value=event.value)
                writer.add_event(EventProto(wall_time=event.walltime, step=event.step, summary=Summary(value=[value])))
        writer.close()
        return events / (time.perf_counter() - begun)
