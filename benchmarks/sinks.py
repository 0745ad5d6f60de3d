"""The rates of the built-in sinks, and of TensorBoard's own writer."""

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

from benchmarks.measurement import Size, metrics
from benchmarks.report import Result
from trainwire_protocol.events import Event
from trainwire_protocol.wire import Batch, decode_batch
from trainwire_sinks.builtin.jsonl import JsonLines
from trainwire_sinks.builtin.log_file import LogFile
from trainwire_sinks.builtin.loss_file import LossFile
from trainwire_sinks.builtin.tensorboard import TensorBoard
from trainwire_sinks.cli.app import COLLECT_AFTER
from trainwire_sinks.runtime.sink import Sink
from trainwire_sinks.testing.check_sink import record, run_sink

BATCH_EVENTS = 500
"""Events in a batch of a busy bus."""


def tensorboard_sink(size: Size) -> Iterator[Result]:
    """Ten scalars per step into event files, relative to `EventFileWriter`."""
    events = size.of(200_000, 20_000)
    ours = rate_of(TensorBoard(), scalars(events))
    theirs = rate_of_event_file_writer(events // 10)
    measured = f"{ours:,.0f} events/s, {ours / theirs:.1f} times `EventFileWriter`'s {theirs:,.0f}"
    yield Result("the TensorBoard sink", measured, "10 times", ours >= 10 * theirs)


def file_sinks(size: Size) -> Iterator[Result]:
    """The sinks that write one file, each with the events that it writes."""
    events = size.of(200_000, 20_000)
    work = {LossFile: scalars(events), LogFile: logs(events), JsonLines: scalars(events)}
    for kind, recorded in work.items():
        rate = rate_of(kind(), recorded)
        yield Result(f"the {kind.name} sink", f"{rate:,.0f} events/s", "200,000", rate >= 200_000)


def scalars(count: int) -> list[Event]:
    """Return ten scalars per step, as a training records them, with an epoch of 100 steps."""
    events = []
    for step in range(count // 10):
        walltime = 1.7e9 + 0.01 * step
        events += [Event(name, value, "scalar", walltime, step) for name, value in metrics(step).items()]
        if step % 100 == 99:
            events.append(Event("epoch/finished", {"epoch": step // 100}, "lifecycle", walltime, step))
    return events


def logs(count: int) -> list[Event]:
    """Return log messages of a training."""
    value = {"level": "INFO", "logger": "trainwire", "message": "epoch 1 - batch 10/100 - loss 0.5123 - 1.2 s"}
    return [Event("log", value, "log", 1.7e9 + 0.01 * number, number) for number in range(count)]


def rate_of(sink: Sink, events: list[Event]) -> float:
    """Return the events per second of a sink, from encoded batches to its output, commits included."""
    groups = [events[first : first + BATCH_EVENTS] for first in range(0, len(events), BATCH_EVENTS)]
    batches = EncodedBatches(record(groups))
    with tempfile.TemporaryDirectory() as folder, collecting_as_in_a_sink():
        start = time.perf_counter()
        run_sink(lambda: sink, Path(folder), batches)
        return len(events) / (time.perf_counter() - start)


@contextlib.contextmanager
def collecting_as_in_a_sink() -> Iterator[None]:
    """Set the garbage collector's threshold to that of the `trainwire` command."""
    before = gc.get_threshold()
    gc.set_threshold(COLLECT_AFTER)
    try:
        yield
    finally:
        gc.set_threshold(*before)


class EncodedBatches(Sequence[Batch]):
    """Batches that are decoded at each access and not kept, like those of a subscription."""

    def __init__(self, batches: list[Batch]) -> None:
        self._frames = [(batch.header_bytes, batch.body) for batch in batches]

    def __len__(self) -> int:
        return len(self._frames)

    def __getitem__(self, index: int) -> Batch:  # type: ignore[override]  # slices are not needed
        return decode_batch(*self._frames[index])


def rate_of_event_file_writer(events: int) -> float:
    """Return the events per second of TensorBoard's own writer, until they are on disk."""
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        writer = EventFileWriter(folder)
        for event in scalars(events):
            if event.type == "scalar":
                value = Summary.Value(tag=event.name, simple_value=event.value)
                writer.add_event(EventProto(wall_time=event.walltime, step=event.step, summary=Summary(value=[value])))
        writer.close()
        return events / (time.perf_counter() - start)
