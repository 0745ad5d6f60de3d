"""The limits of what the training process keeps in memory, and what is reported when one is reached."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from support.run_reader import read_events, wait_until

import trainwire
from trainwire.bus import queue, watchers, writer
from trainwire.bus.batcher import MAX_EVENTS, SLICE_EVENTS, Batcher
from trainwire.bus.bus_thread import BusThread
from trainwire.bus.queue import FLOATS, Logged
from trainwire.bus.values import rejections
from trainwire.bus.writer import Writer
from trainwire_protocol.events import Event
from trainwire_protocol.journal.verification import verify_run
from trainwire_protocol.transport.server import MAX_PUBLISHED_BYTES
from trainwire_protocol.wire import Batch, Header, encode_batch


def dropped_in_record(folder: Path) -> int:
    return sum(report.dropped for report in verify_run(folder))


def test_the_queue_is_bounded_in_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Values beyond the queue's limit in bytes are dropped, and events/dropped counts them."""
    bus = trainwire.open_bus(tmp_path, flush_interval=0.3)
    monkeypatch.setattr(bus._queue, "_max_bytes", 100_000)
    bus._queue.reset_limits()
    for step in range(1, 101):
        bus.text("note", "x" * 10_000, step=step)
    queued = sum(record[5] for record in list(bus._queue.records))
    dropped = bus.describe()["dropped"]
    bus.close(timeout=5)
    assert queued <= 120_000
    assert dropped >= 80
    assert dropped_in_record(tmp_path) == dropped
    assert sum(event.name == "note" for event in read_events(tmp_path)) == 100 - dropped


def test_the_queues_limits_are_those_that_are_documented() -> None:
    """A million values or 256 MiB."""
    assert (queue.MAX_QUEUED_VALUES, queue.MAX_QUEUED_BYTES) == (1_000_000, 256 << 20)


def test_the_queue_has_room_again_when_it_was_emptied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After drops recording continues: nothing is dropped once the queue has room."""
    bus = trainwire.open_bus(tmp_path)
    monkeypatch.setattr(bus._queue, "_max_values", 50)
    bus._queue.reset_limits()
    for step in range(1, 201):
        bus.log({"first": 1.0}, step=step)
    wait_until(lambda: not bus._queue.records)
    for step in range(201, 221):
        bus.log({"second": 1.0}, step=step)
    bus.close(timeout=5)
    assert sum(event.name == "second" for event in read_events(tmp_path)) == 20


def test_slow_watchers_lose_the_oldest_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full watchers' queue drops and counts its oldest events; the journal has all of them."""
    monkeypatch.setattr(watchers, "MAX_WAITING", 100)
    let_go = threading.Event()
    seen: list[int] = []

    async def slow(event: Event) -> None:
        while not let_go.is_set():
            await asyncio.sleep(0.005)
        seen.append(event.step)

    bus = trainwire.open_bus(tmp_path)
    bus.watch(slow)
    for step in range(1, 1001):
        bus.log({"train/loss": 1.0}, step=step)
    wait_until(lambda: sum(event.name == "train/loss" for event in read_events(tmp_path)) == 1000)
    let_go.set()
    bus.close(timeout=5)
    assert bus._watchers.dropped >= 800
    assert len(seen) + bus._watchers.dropped == 1002
    assert seen[-50:] == [*range(952, 1001), 1000]
    assert dropped_in_record(tmp_path) == 0


def test_a_watcher_that_hangs_does_not_hold_up_close(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """close does not wait beyond its timeout for a watcher that never ends."""
    monkeypatch.setattr("trainwire.bus.bus.ENDING_SECONDS", 10.0)
    bus = trainwire.open_bus(tmp_path)

    async def hang(event: Event) -> None:
        await asyncio.sleep(3600)

    bus.watch(hang)
    bus.log({"train/loss": 1.0}, step=1)
    closing = threading.Thread(target=bus.close, args=(0.2,))
    closing.start()
    closing.join(20)
    assert not closing.is_alive()
    assert read_events(tmp_path)[-1].name == "run/finished"


def test_rejections_are_bounded(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    """The number of kinds of rejections that are counted and logged is limited, and so are the reasons of each."""
    monkeypatch.setattr(rejections, "MAX_KINDS", 10)
    monkeypatch.setattr(rejections, "MAX_REASONS", 3)
    counted = rejections.Rejections()
    with caplog.at_level(logging.WARNING):
        for number in range(1000):
            counted.add(f"kind {number}", "mistake %d", number)
            counted.add("kind 0", "mistake %d", number, reason=f"reason {number}")
    assert len(counted.counts) == 10
    assert counted.counts["kind 0"] == 1001
    assert len(caplog.records) == 12


def test_the_names_whose_steps_are_watched_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory for names is limited, and events with further names are recorded."""
    monkeypatch.setattr("trainwire.bus.batcher.MAX_NAMES", 100)
    bus = trainwire.open_bus(tmp_path)
    for step in range(1, 501):
        bus.log({f"name/{step}": 1.0}, step=step)
    bus.close(timeout=5)
    assert len(bus._thread.writer._batcher._steps._steps) <= 101
    assert sum(event.name.startswith("name/") for event in read_events(tmp_path)) == 500


def test_empty_mappings_leave_nothing_behind(tmp_path: Path) -> None:
    """Logging empty mappings leaves nothing in memory."""
    bus = trainwire.open_bus(tmp_path)
    for step in range(1, 101):
        bus.log({}, step=step)
    wait_until(lambda: not bus._queue.records and not bus._thread.writer._batcher._packed)
    bus.close()
    assert [event.name for event in read_events(tmp_path)] == ["run/started", "run/finished"]


def test_a_pending_batch_keeps_no_decoded_events() -> None:
    """A batch does not keep its decoded events, which are many times as large as its body."""
    handed = watchers.Watchers()

    async def watch(event: Event) -> None:
        """Do nothing."""

    handed.add(watch)
    batch = encode_batch(Header("run", 0, 0, "event", 0, 1, {}), [("a", 1.0, "scalar", 1.0, 1)])
    unread = set(vars(batch))
    handed.send([batch])
    handed.close(timeout=10)
    assert set(vars(batch)) == unread


@pytest.mark.parametrize("count", [SLICE_EVENTS, SLICE_EVENTS + 1, MAX_EVENTS + 1, 3 * MAX_EVENTS + 7])
def test_a_large_mapping_is_packed_in_parts(count: int) -> None:
    """Metrics of one call are recorded in order, in few batches of the usual size, however many there are."""
    batcher = Batcher("run", 0, 0, rejections.Rejections())
    floats = {f"metric/{number}": float(number) for number in range(count)}
    integers: dict[str, float] = {f"count/{number}": number for number in range(count)}
    for metrics, kind in ((floats, FLOATS), (floats, FLOATS), (integers, Logged.ANY), (integers, Logged.ANY)):
        batcher.add(("", metrics, kind, 1.0, 1, 0))
        batches = batcher.take()
        assert [event[:2] for batch in batches for event in batch.events] == [*metrics.items()]
        assert max(batch.header.count for batch in batches) < MAX_EVENTS + SLICE_EVENTS
        assert len(batches) <= count / MAX_EVENTS + 1
    assert sum(len(group.names) for group in batcher._groups.values()) == 2 * count


def log_ten(bus: trainwire.EventBus, step: int) -> int:
    bus.log({f"metric/{number}": 1.0 for number in range(10)}, step=step)
    return 10


def log_and_draw(bus: trainwire.EventBus, step: int) -> int:
    bus.log({"train/loss": 1.0}, step=step)
    bus.image("sample", {"data": b"png", "format": "png"}, step=step)
    return 2


def log_in_vain(bus: trainwire.EventBus, step: int) -> int:
    bus.log({"": 1.0}, step=step)
    return 0


def log_much_in_vain(bus: trainwire.EventBus, step: int) -> int:
    bus.log({f"metric/{number}": None for number in range(10)}, step=step)  # type: ignore[dict-item]  # what is refused
    return 0


def bucket(bus: trainwire.EventBus, step: int) -> int:
    if step % 20 == 0:
        bus.histogram("weights", [1.0] * 5000, step=step)
    return step % 20 == 0


@pytest.mark.parametrize("record", [log_ten, log_and_draw, log_in_vain, log_much_in_vain, bucket])
def test_little_is_done_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, record: Callable[[trainwire.EventBus, int], int]
) -> None:
    """Records are packed in slices, between which other threads get the GIL."""
    packed, pack_slice = list[int](), Writer._pack_slice

    def count(writing: Writer) -> None:
        before = writing._batcher.seq + writing._batcher._count
        pack_slice(writing)
        packed.append(writing._batcher.seq + writing._batcher._count - before)

    monkeypatch.setattr(Writer, "_pack_slice", count)
    bus = trainwire.open_bus(tmp_path, flush_interval=3000.0)
    recorded = sum(record(bus, step) for step in range(1, 2001))
    bus.close(timeout=30)
    assert sum(packed) == recorded + 1
    assert max(packed) < 2 * SLICE_EVENTS
    assert len(packed) >= {log_much_in_vain: 20_000 / SLICE_EVENTS, bucket: 50}.get(record, 2000 / SLICE_EVENTS)


def test_watchers_are_handed_little_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With watchers, batches are as small as slices, because they are decoded without a pause."""
    handed, send = list[int](), watchers.Watchers.send

    def count(watching: watchers.Watchers, batches: Sequence[Batch]) -> None:
        handed.append(sum(batch.header.count for batch in batches))
        send(watching, batches)

    async def watch(event: Event) -> None:
        """Do nothing."""

    monkeypatch.setattr(watchers.Watchers, "send", count)
    with trainwire.open_bus(tmp_path) as bus:
        bus.watch(watch)
        recorded = sum(log_ten(bus, step) for step in range(1, 2001))
    assert sum(handed) == recorded + 2
    assert max(handed) < 2 * SLICE_EVENTS


def test_valid_records_do_not_wait_for_rejected_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was packed is written after a while, however many rejected records are still queued."""
    monkeypatch.setattr(writer, "TAKE_SECONDS", -1.0)
    add_pending, left = Writer._add_pending, list[int]()

    def note(writing: Writer, batches: Sequence[Batch]) -> None:
        left.extend(len(bus._queue.records) for _ in batches)
        add_pending(writing, batches)

    monkeypatch.setattr(Writer, "_add_pending", note)
    bus = trainwire.open_bus(tmp_path, flush_interval=3000.0)
    for step in range(1, 2001):
        log_in_vain(bus, step)
    bus.close(timeout=30)
    assert len(left) == 2
    assert left[0] > 0


def test_close_interrupts_the_taking_of_records(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After close's timeout the remaining values are dropped, counted and named; lifecycle events are kept."""
    monkeypatch.setattr(writer, "DROP_SECONDS", 0.0)
    pack_slice, end, ending = Writer._pack_slice, BusThread.end, threading.Event()

    def pack_once_it_ends(writing: Writer) -> None:
        assert ending.wait(30)
        pack_slice(writing)

    def end_at_once(thread: BusThread, *arguments: Any) -> None:
        end(thread, *arguments)
        ending.set()

    monkeypatch.setattr(Writer, "_pack_slice", pack_once_it_ends)
    monkeypatch.setattr(BusThread, "end", end_at_once)
    bus = trainwire.open_bus(tmp_path)
    for step in range(1, 11):
        bus.log({f"metric/{number}": 1.0 for number in range(SLICE_EVENTS)}, step=step)
    bus.lifecycle("epoch/finished", epoch=1)
    bus.close(timeout=0.0)
    wait_until(lambda: read_events(tmp_path)[-1].name == "run/finished")
    events = read_events(tmp_path)
    dropped = next(event.value for event in events if event.name == "events/dropped")
    assert dropped["reason"] == "not written in time"
    assert dropped["count"] == 10 * SLICE_EVENTS - sum(event.name.startswith("metric/") for event in events) > 0
    assert dropped["names"][:2] == ("metric/0", "metric/1")
    assert [event.name for event in events[-3:]] == ["epoch/finished", "events/dropped", "run/finished"]


@pytest.mark.parametrize("size", [632, 999, 1172])
def test_batches_of_small_events_are_published(size: int) -> None:
    """A batch that is filled to the last byte is not larger than what PUB sends."""
    batcher = Batcher("run", 0, 0, rejections.Rejections())
    for _ in range(480):
        batcher.add(("note", "x" * size, "text", 1.0, 200, size))
    bodies = [len(batch.body) for batch in batcher.take()]
    assert len(bodies) > 1
    assert max(bodies) <= MAX_PUBLISHED_BYTES
