"""The writer takes, writes and publishes; the bus thread sends heartbeats in between."""

from __future__ import annotations

import random
import threading
import time
from pathlib import Path

import pytest
import zmq
from support.run_reader import read_events, wait_until

import trainwire
from trainwire.bus import bus_thread, writer
from trainwire.bus.writer import Writer
from trainwire_protocol.transport.connection import connection_path, read_connection
from trainwire_protocol.wire import decode_batch


@pytest.mark.parametrize("looks", [1, 1_000_000])
def test_records_are_written_at_any_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, looks: int) -> None:
    """Records are written soon, whether the thread is busy or idle when they are appended."""
    monkeypatch.setattr(writer, "BUSY_LOOKS", looks)
    pauses = random.Random(7)
    with trainwire.open_bus(tmp_path, flush_interval=0.002) as bus:
        for step in range(1, 201):
            bus.log({"loss": 0.5}, step=step)
            if step % 20 == 0:
                wait_until(lambda: read_events(tmp_path)[-1].step == step)  # noqa: B023  # it is waited for at once
            time.sleep(pauses.choice([0.0, 0.001, 0.002, 0.003, 0.01]))
    assert [event.step for event in read_events(tmp_path) if event.type == "scalar"] == [*range(1, 201)]


def test_an_idle_bus_closes_soon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """close does not wait for the end of the idle sleeps."""
    monkeypatch.setattr(writer, "BUSY_LOOKS", 1)
    monkeypatch.setattr(writer, "IDLE_LOOKS", 1_000_000)
    bus = trainwire.open_bus(tmp_path, flush_interval=0.001)
    wait_until(lambda: read_events(tmp_path))
    bus.close()
    assert not bus._thread.writer.is_alive()
    assert read_events(tmp_path)[-1].name == "run/finished"


def test_heartbeats_do_not_mix_with_batches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both threads send on one socket: each message arrives complete, and the batches in order."""
    monkeypatch.setattr(bus_thread, "HEARTBEAT_SECONDS", 0.0)
    monkeypatch.setattr(bus_thread, "LINGER_SECONDS", 20.0)
    socket = zmq.Context.instance().socket(zmq.SUB)
    socket.setsockopt(zmq.RCVHWM, 0)
    socket.rcvtimeo, socket.linger = 20_000, 0
    socket.subscribe(b"")
    kinds, seqs = set[str](), list[int]()
    with trainwire.open_bus(tmp_path, flush_interval=0.001, high_water_mark=1_000_000) as bus:
        socket.connect(read_connection(connection_path(tmp_path, 0)).publish)
        while not seqs:
            bus.log({"a": 1.0})
            topic, header, body = socket.recv_multipart()
            seqs += [decode_batch(header, body).header.seq] * (b"/event/" in topic)
        for step in range(1, 2001):
            bus.log({"a": 1.0}, step=step)
            time.sleep(0.0005)
    is_over = False
    while not is_over:
        topic, header, body = socket.recv_multipart()
        batch = decode_batch(header, body)
        is_over = batch.header.last
        assert topic == batch.topic
        kinds.add(batch.header.channel)
        if batch.header.count:
            assert len(batch.events) == batch.header.count
            seqs += range(batch.header.seq, batch.header.seq + batch.header.count)
    socket.close()
    assert kinds == {"event", "heartbeat"}
    assert seqs[1:] == [*range(seqs[1], seqs[-1] + 1)]


def test_an_internal_error_is_logged_and_close_returns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """An internal error of the bus is logged and ends the recording; the training and close continue."""
    failed = threading.Event()

    def fail(_: Writer) -> bool:
        failed.set()
        raise MemoryError

    bus = trainwire.open_bus(tmp_path)
    bus.log({"a": 1.0}, step=1)
    wait_until(lambda: [event for event in read_events(tmp_path) if event.name == "a"])
    monkeypatch.setattr(Writer, "take", fail)
    bus.log({"a": 2.0}, step=2)
    assert failed.wait(20)
    bus.log({"a": 3.0}, step=3)
    begun = time.monotonic()
    bus.close(timeout=50)
    assert time.monotonic() - begun < 20
    assert any("the bus has failed" in line.message for line in caplog.records)
    assert [event.value for event in read_events(tmp_path) if event.name == "a"] == [1.0]
