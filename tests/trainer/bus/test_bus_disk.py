"""The bus over a disk that is full or hangs: training continues, monitors receive events, and losses are named."""

from __future__ import annotations

import errno
import os
import threading
import time
from pathlib import Path

import msgpack
import pytest
import zmq
from support.run_reader import read_events, wait_until

import trainwire
from trainwire.bus import bus_thread, writer
from trainwire.bus.writer import Writer
from trainwire_protocol.errors import OptionError
from trainwire_protocol.journal.attempts import MARK
from trainwire_protocol.journal.run_folder import Attempt, list_attempts
from trainwire_protocol.journal.verification import verify_run
from trainwire_protocol.transport.connection import connection_path, read_connection
from trainwire_protocol.transport.server import Server


class Disk:
    """Replaces the system's write to files: writes, fails like a full disk, or hangs."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.full = False
        self.answers = threading.Event()
        self.answers.set()
        self.refused = 0
        self._write = os.write
        monkeypatch.setattr("trainwire_protocol.journal.segments.os.write", self.write)

    def write(self, descriptor: int, data: bytes) -> int:
        self.answers.wait()
        if self.full:
            self.refused += 1
            raise OSError(errno.ENOSPC, "No space left on device")
        return self._write(descriptor, data)


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch):
    disk = Disk(monkeypatch)
    yield disk
    disk.answers.set()


def values(folder: Path, name: str) -> list[float]:
    return [event.value for event in read_events(folder) if event.name == name]


def subscribe(folder: Path) -> zmq.Socket:
    socket = zmq.Context.instance().socket(zmq.SUB)
    socket.subscribe(b"tw1/event/")
    socket.rcvtimeo = 10_000
    socket.linger = 0
    socket.connect(read_connection(connection_path(folder, 0)).publish)
    return socket


def test_a_full_disk_loses_nothing_once_it_has_room(tmp_path: Path, disk: Disk, caplog) -> None:
    """Writes are retried until they succeed, with one warning, and nothing is lost."""
    with trainwire.open_bus(tmp_path) as bus:
        bus.log({"a": 1.0}, step=1)
        wait_until(lambda: values(tmp_path, "a"))
        disk.full = True
        bus.log({"a": 2.0}, step=2)
        wait_until(lambda: disk.refused > 1)
        disk.full = False
        bus.log({"a": 3.0}, step=3)
    assert values(tmp_path, "a") == [1.0, 2.0, 3.0]
    assert sum("cannot be written" in line.message for line in caplog.records) == 1


def next_header(socket: zmq.Socket, seq: int) -> dict:
    while (header := msgpack.unpackb(socket.recv_multipart()[1]))["seq"] < seq:
        pass
    return header


@pytest.mark.parametrize("fault", ["full", "frozen"])
def test_monitors_see_what_the_disk_does_not_take(tmp_path: Path, disk: Disk, fault: str) -> None:
    """Batches are published as unjournaled after two seconds, and again without the mark once they are written."""
    with trainwire.open_bus(tmp_path) as bus:
        socket = subscribe(tmp_path)
        wait_until(lambda: read_events(tmp_path))
        disk.full = fault == "full"
        if fault == "frozen":
            disk.answers.clear()
        begun = time.monotonic()
        bus.log({"a": 1.0}, step=1)
        header = next_header(socket, 1)
        assert header["unjournaled"]
        assert time.monotonic() - begun > 1.5
        disk.full = False
        disk.answers.set()
        again = next_header(socket, 1)
        assert (again["seq"], "unjournaled" in again) == (header["seq"], False)
        socket.close()
    assert values(tmp_path, "a") == [1.0]


def test_what_could_not_be_kept_is_named(tmp_path: Path, disk: Disk, monkeypatch, caplog) -> None:
    """Batches beyond the limit are given up, and journal/missing names exactly the seqs that the journal lacks."""
    monkeypatch.setattr(writer, "MAX_PENDING_BYTES", 20_000)
    with trainwire.open_bus(tmp_path) as bus:
        wait_until(lambda: read_events(tmp_path))
        disk.answers.clear()
        for step in range(1, 3001):
            bus.log({"a": float(step)}, step=step)
        wait_until(lambda: not bus._queue.records)
        disk.answers.set()
        wait_until(lambda: any(event.name == "journal/missing" for event in read_events(tmp_path)))
    events = read_events(tmp_path)
    lost = set(range(1, 3001)) - {event.step for event in events if event.name == "a"}
    named = [event.value for event in events if event.name == "journal/missing"]
    # The run begins with one event, so that step n has seq n.
    assert lost == {seq for row in named for seq in range(row["first_seq"], row["last_seq"] + 1)}
    assert lost


def test_what_could_not_be_kept_is_named_also_at_the_end(tmp_path: Path, disk: Disk, monkeypatch) -> None:
    """A bus that is closing when its disk recovers names what was given up, before its last event."""
    monkeypatch.setattr(writer, "MAX_PENDING_BYTES", 20_000)
    bus = trainwire.open_bus(tmp_path)
    wait_until(lambda: read_events(tmp_path))
    disk.answers.clear()
    for step in range(1, 3001):
        bus.log({"a": float(step)}, step=step)
    wait_until(lambda: not bus._queue.records)
    threading.Timer(0.2, disk.answers.set).start()
    bus.close(timeout=10)
    assert [report.is_whole for report in verify_run(tmp_path)] == [False]
    assert [(bool(report.lost), report.missing) for report in verify_run(tmp_path)] == [(True, [])]
    assert read_events(tmp_path)[-1].name == "run/finished"


def test_what_names_the_lost_is_not_lost_itself(tmp_path: Path, disk: Disk, monkeypatch: pytest.MonkeyPatch) -> None:
    """journal/missing, marks and the last event are never given up, however much waits for the disk."""
    refused = list[bytes]()

    def write(descriptor: int, data: bytes) -> int:
        disk.full = any(name in bytes(data) for name in refused)
        return disk.write(descriptor, data)

    monkeypatch.setattr("trainwire_protocol.journal.segments.os.write", write)
    monkeypatch.setattr(writer, "MAX_PENDING_BYTES", 0)
    monkeypatch.setattr(writer, "SLICE_BYTES", 0)
    with trainwire.open_bus(tmp_path) as bus:
        wait_until(lambda: read_events(tmp_path))
        refused += [b"kept", MARK.encode()]
        bus.log({"kept": 1.0}, step=1)
        wait_until(lambda: disk.refused)
        bus.state_dict()
        bus.log({"given up": 2.0}, step=2)
        wait_until(lambda: bus._thread.writer._given_up)
        refused.remove(b"kept")
        wait_until(lambda: values(tmp_path, "kept"))
        before = disk.refused
        wait_until(lambda: disk.refused > before and not bus._queue.records)
        refused.clear()
    assert [(report.lost, report.missing) for report in verify_run(tmp_path)] == [([(3, 3)], [])]


def test_a_last_event_that_the_disk_refuses_is_tried_again(
    tmp_path: Path, disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last event is retried if the disk is full for a moment while the bus is closing."""

    def refuse_once(descriptor: int, data: bytes) -> int:
        disk.full = b"run/finished" in bytes(data) and not disk.refused
        return disk.write(descriptor, data)

    monkeypatch.setattr("trainwire_protocol.journal.segments.os.write", refuse_once)
    trainwire.open_bus(tmp_path).close(timeout=20)
    assert disk.refused == 1
    assert read_events(tmp_path)[-1].name == "run/finished"


def test_a_slow_disk_does_not_fill_the_queue(tmp_path: Path, disk: Disk, monkeypatch: pytest.MonkeyPatch) -> None:
    """While a write takes long, the bus thread empties the queue once it is half full."""
    monkeypatch.setattr(writer, "UNJOURNALED_SECONDS", 1000.0)
    monkeypatch.setattr(bus_thread, "HEARTBEAT_SECONDS", 0.02)
    with trainwire.open_bus(tmp_path) as bus:
        wait_until(lambda: read_events(tmp_path))
        bus._queue._max_values = 100
        bus._queue.reset_limits()
        disk.answers.clear()
        bus.log({"a": 0.0})
        wait_until(lambda: not bus._queue.records and bus._thread.writer.stalled_since)
        for step in range(1, 301):
            bus.log({"a": float(step)}, step=step)
            if step % 60 == 0:
                wait_until(lambda: not bus._queue.records)
        disk.answers.set()
    assert values(tmp_path, "a") == [float(step) for step in range(301)]


def test_a_full_disk_is_tried_again_soon(tmp_path: Path, disk: Disk) -> None:
    """A failed write is retried soon, however long the flush interval is."""
    with trainwire.open_bus(tmp_path, flush_interval=3000.0) as bus:
        disk.full = True
        bus.log({"a": 1.0}, step=1)
        bus._thread.writer.wake()
        wait_until(lambda: disk.refused > 1)
        disk.full = False
        wait_until(lambda: values(tmp_path, "a"))


def test_monitors_see_what_waits_behind_a_lease(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that hangs while the lease is renewed counts as one that does not answer."""
    answers, renew = threading.Event(), Attempt.write_lease
    with trainwire.open_bus(tmp_path) as bus:
        socket = subscribe(tmp_path)
        wait_until(lambda: read_events(tmp_path))
        monkeypatch.setattr(writer, "RENEWAL_SECONDS", 0.0)
        monkeypatch.setattr(Attempt, "write_lease", lambda *lease: answers.wait() and renew(*lease))
        wait_until(lambda: bus._thread.writer.stalled_since)
        bus.log({"a": 1.0}, step=1)
        assert next_header(socket, 1)["unjournaled"]
        answers.set()
        assert "unjournaled" not in next_header(socket, 1)
        socket.close()
    assert values(tmp_path, "a") == [1.0]


@pytest.mark.parametrize("fault", ["full", "frozen"])
def test_closing_over_a_bad_disk_is_bounded(tmp_path: Path, disk: Disk, fault: str, caplog) -> None:
    """A disk that never answers does not delay close beyond its timeout, and the loss is reported."""
    bus = trainwire.open_bus(tmp_path)
    wait_until(lambda: read_events(tmp_path))
    disk.full = fault == "full"
    if fault == "frozen":
        disk.answers.clear()
    bus.log({"a": 1.0}, step=1)
    begun = time.monotonic()
    bus.close(timeout=0.1)
    assert time.monotonic() - begun < 5
    assert any("did not accept the last 2 events" in line.message for line in caplog.records)


def test_the_timeout_of_close_is_a_setting(tmp_path: Path, disk: Disk, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without an argument, close uses the timeout of open_bus, or else that of the environment."""
    monkeypatch.setenv("TRAINWIRE_CLOSE_TIMEOUT", "20")
    with trainwire.open_bus(tmp_path / "environment") as bus:
        assert bus.close_timeout == 20
    with trainwire.open_bus(tmp_path / "argument", close_timeout=0.1) as bus:
        assert bus.close_timeout == 0.1
    monkeypatch.delenv("TRAINWIRE_CLOSE_TIMEOUT")
    bus = trainwire.open_bus(tmp_path / "default")
    assert bus.close_timeout == 2
    wait_until(lambda: read_events(tmp_path / "default"))
    bus.close_timeout = 0.1
    disk.answers.clear()
    begun = time.monotonic()
    bus.close()
    assert 0.1 <= time.monotonic() - begun < 10


@pytest.mark.parametrize("value", ["", "soon", "nan", "-1", "3601"])
def test_an_invalid_timeout_of_close_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    """The error names the invalid variable or argument, and no run is begun."""
    with pytest.raises(OptionError, match=r"close_timeout is .*; it must be a number of seconds from 0 to 3600"):
        trainwire.open_bus(tmp_path / "run", close_timeout=value)  # type: ignore[arg-type]  # not a number
    monkeypatch.setenv("TRAINWIRE_CLOSE_TIMEOUT", value)
    with pytest.raises(OptionError, match=r"TRAINWIRE_CLOSE_TIMEOUT is .*; it must be a number of seconds"):
        trainwire.open_bus(tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("owner", "name", "more"), [(Writer, "finish", 10.0), (Server, "close", 0.0)])
def test_what_a_disk_takes_late_is_there_when_close_returns(
    tmp_path: Path, disk: Disk, monkeypatch, caplog, owner: type, name: str, more: float
) -> None:
    """Beyond its timeout close waits briefly for the journal; what is written then is not reported as lost."""
    call = getattr(owner, name)

    def call_and_let_go(*arguments: object) -> object:
        threading.Timer(0.05, disk.answers.set).start()
        return call(*arguments)

    monkeypatch.setattr(owner, name, call_and_let_go)
    monkeypatch.setattr(writer, "DROP_SECONDS", more)
    monkeypatch.setattr("trainwire.bus.bus.ENDING_SECONDS", 10.0)
    bus = trainwire.open_bus(tmp_path)
    wait_until(lambda: read_events(tmp_path))
    disk.answers.clear()
    bus.log({"a": 1.0}, step=1)
    bus.close(timeout=0.1)
    assert [event.name for event in read_events(tmp_path)] == ["run/started", "a", "run/finished"]
    assert any("did not accept" in line.message for line in caplog.records) == (not more)


def test_an_old_owner_stops_journaling_when_the_run_is_taken_over(tmp_path: Path, monkeypatch, caplog) -> None:
    """The first trainer detects the second at its next renewal, reports it, and writes nothing more."""
    monkeypatch.setattr("trainwire.bus.writer.RENEWAL_SECONDS", 0.05)
    with trainwire.open_bus(tmp_path) as first, trainwire.open_bus(tmp_path, take_over=True) as second:
        wait_until(lambda: any("taken over" in line.message for line in caplog.records))
        first.log({"a": 1.0}, step=1)
        second.log({"a": 2.0}, step=1)
        first.close(timeout=0.2)
    assert values(tmp_path, "a") == [2.0]
    assert [attempt.number for attempt in list_attempts(tmp_path, 0)] == [0, 1]


def test_the_lease_is_renewed_while_a_slow_disk_takes_much(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The lease is checked after each write, and not only once everything is written."""
    left = list[int]()
    monkeypatch.setattr(writer, "SLICE_BYTES", 0)
    monkeypatch.setattr(Writer, "_renew_lease", lambda thread: left.append(len(thread._pending)))
    with trainwire.open_bus(tmp_path, flush_interval=3000.0) as bus:
        for step in range(1, 21):
            bus.log({"train/loss": 1.0}, step=step)
            bus.image("sample", {"data": b"png", "format": "png"}, step=step)
    assert max(left) > 10
