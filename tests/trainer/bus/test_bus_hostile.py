"""Invalid input does not end the bus: later values are recorded, and the run ends properly."""

from __future__ import annotations

import asyncio
import enum
import itertools
import logging
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from support.run_reader import read_events, wait_until

import trainwire
from trainwire import EventBus
from trainwire.bus.queue import FLOATS, Logged, RecordQueue
from trainwire.bus.values.gpu import DeviceCopy, PendingScalar
from trainwire_protocol.errors import OptionError, UsageError
from trainwire_protocol.journal.run_folder import list_attempts


class Evil:
    """Raises an exception whatever is done with it."""

    def __repr__(self) -> str:
        raise RuntimeError("evil")

    __str__ = __float__ = __int__ = __index__ = __iter__ = __len__ = __repr__


class Fickle:
    """Can be hashed once."""

    hashed = False

    def __hash__(self) -> int:
        if self.hashed:
            raise RuntimeError("hashed again")
        self.hashed = True
        return 1


class Proxy:
    """Claims the class of its value, as the proxies of many libraries do, and then fails."""

    def __init__(self, value: object) -> None:
        self.value = value

    @property
    def __class__(self) -> type:
        return type(self.value)

    def __float__(self) -> float:
        raise RuntimeError("not there")

    __index__ = __float__

    def __le__(self, other: object) -> bool:
        return True

    __lt__ = __ge__ = __gt__ = __le__


class FailedGpu:
    """A CUDA event after an error of the device."""

    def query(self) -> bool:
        raise RuntimeError("CUDA error: device-side assert triggered")


class Mode(enum.StrEnum):
    FAST = "fast"


def raise_in_watcher(bus: EventBus, error: type[BaseException]) -> None:
    async def watch(event: object) -> None:
        raise error

    bus.watch(watch)
    bus.log({"a": 2.0})


def deep_list() -> list[object]:
    value: list[object] = []
    for _ in range(3000):
        value = [value]
    return value


HOSTILE: dict[str, Callable[[EventBus], object]] = {
    "a step past 64 bits": lambda bus: bus.log({"a": 1.0}, step=2**64),
    "a step that is not a number": lambda bus: bus.log({"a": 1.0}, step=Evil()),
    "an empty name": lambda bus: bus.text("", "hello"),
    "no name": lambda bus: bus.publish(None, 1.0, "scalar"),
    "no type": lambda bus: bus.publish("x", 1.0, ""),
    "evil values": lambda bus: bus.log({"x": Evil()}),
    "evil everything": lambda bus: bus.publish(Evil(), Evil(), Evil(), Evil()),
    "evil hparams": lambda bus: bus.hparams({"x": Evil()}),
    "an evil mapping": lambda bus: bus.log(Evil()),
    "a name that cannot be hashed again": lambda bus: bus.log({Fickle(): 1.0}),
    "what passes for a float": lambda bus: bus.log({"a": Proxy(1.0)}),
    "what passes for a step": lambda bus: bus.log({"a": 1.0}, step=Proxy(1)),
    "a deep list": lambda bus: bus.hparams({"x": deep_list()}),
    "a lone surrogate of an unknown type": lambda bus: bus.publish("x", "\udcff", "custom"),
    "a lone surrogate in hparams": lambda bus: bus.hparams({"x": "\udcff"}),
    "a table that is too large": lambda bus: bus.table("t", {"columns": ["c"], "rows": [["x" * (1 << 20)]] * 66}),
    "a scalar with the mark's name": lambda bus: bus.log({"run/marked": 1.0}),
    "an event of the bus's own": lambda bus: bus.lifecycle("run/marked"),
    "a last event": lambda bus: bus.lifecycle("run/finished", last_seq=0),
    "a watcher that is cancelled": lambda bus: raise_in_watcher(bus, asyncio.CancelledError),
    "a watcher that exits": lambda bus: raise_in_watcher(bus, SystemExit),
    "a GPU that has failed": lambda bus: bus._queue.append(
        "", {"loss": PendingScalar(DeviceCopy(None, FailedGpu()), 0)}, Logged.ANY, 1
    ),
}


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.parametrize("name", HOSTILE)
def test_the_bus_survives(tmp_path: Path, name: str) -> None:
    """Later records and the last event are in the journal, and heartbeats continue."""
    with trainwire.open_bus(tmp_path) as bus:
        bus.log({"a": 1.0}, step=1)
        HOSTILE[name](bus)
        bus.log({"after": 1.0}, step=2)
        wait_until(lambda: any(event.name == "after" for event in read_events(tmp_path)))
        assert bus._thread.failure is None
        bus._thread.writer.server.beat()
    assert read_events(tmp_path)[-1].name == "run/finished"
    assert not list_attempts(tmp_path, 0)[0].is_held()


class FailingHandler(logging.Handler):
    """Raises an exception for each message."""

    def emit(self, record: logging.LogRecord) -> None:
        raise RuntimeError(record.getMessage())


def test_a_logging_handler_that_fails_does_not_end_the_bus(tmp_path: Path) -> None:
    """The bus records on, and counts the rejection, if a logging handler of the program fails."""
    logger, handler = logging.getLogger("trainwire"), FailingHandler()
    logger.addHandler(handler)
    try:
        with trainwire.open_bus(tmp_path) as bus:
            bus.publish("wrong", "text", "scalar")
            bus.log({"after": 1.0}, step=2)
            wait_until(lambda: any(event.name == "after" for event in read_events(tmp_path)))
    finally:
        logger.removeHandler(handler)
    assert bus.rejections == {"'wrong'": 1}


def test_empty_mappings_are_counted() -> None:
    """Empty records take room in the queue too, and are dropped when it is full."""
    queue = RecordQueue(max_values=10)
    for step in range(100):
        queue.append("", {}, FLOATS, step, 1)
        queue.append("", {}, FLOATS, step, 1)
        queue.take()
    assert queue.dropped > 0
    assert len(queue.records) <= 10


def test_enumerations_are_their_values(tmp_path: Path) -> None:
    """Members of enumerations, and integers of any size, are hyperparameters as users expect."""
    with trainwire.open_bus(tmp_path, hparams={"mode": Mode.FAST, "seed": 10**400, "lr": np.float32(0.5)}):
        pass
    hparams = next(event.value for event in read_events(tmp_path) if event.type == "hparams")
    assert (hparams["mode"], hparams["seed"], hparams["lr"]) == ("fast", str(10**400), 0.5)


def test_a_reason_that_cannot_be_encoded_is_recorded(tmp_path: Path) -> None:
    """The last event is recorded whatever the error's text contains."""
    with pytest.raises(ValueError, match="cannot read"), trainwire.open_bus(tmp_path):
        raise ValueError("cannot read \udcff")
    last = read_events(tmp_path)[-1]
    assert (last.name, last.value["reason"]) == ("run/failed", "ValueError: cannot read ?")


def test_closing_does_not_wait_for_a_long_flush_interval(tmp_path: Path) -> None:
    """A bus with a flush interval of an hour closes at once, with everything in the journal."""
    bus = trainwire.open_bus(tmp_path, flush_interval=3000)
    bus.log({"a": 1.0}, step=1)
    begun = time.monotonic()
    bus.close(timeout=30)
    assert time.monotonic() - begun < 20
    assert [event.name for event in read_events(tmp_path)] == ["run/started", "a", "run/finished"]


def test_an_image_is_not_encoded_on_the_training_thread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pixels are copied by the caller and encoded by the writer, and their bytes count for the queue's limit."""
    threads = set()
    encode = trainwire.bus.values.images._encode_pixels

    def spy(*arguments):
        threads.add(threading.current_thread().name)
        return encode(*arguments)

    monkeypatch.setattr("trainwire.bus.values.images._encode_pixels", spy)
    array, tensor = np.zeros((8, 9, 3)), torch.zeros(3, 8, 9)
    with trainwire.open_bus(tmp_path) as bus:
        bus.image("array", array, step=1)
        bus.image("tensor", tensor, step=1)
        array[:], tensor[:] = 1.0, 1.0
    images = [event.value for event in read_events(tmp_path) if event.type == "image"]
    assert [(image["width"], image["height"], image["channels"]) for image in images] == [(9, 8, 3)] * 2
    assert images[0]["data"] == images[1]["data"]
    assert threads == {"trainwire-writer"}


def test_values_that_are_taken_make_room() -> None:
    """A queue that is never empty, but short, drops nothing however much goes through it."""
    queue = RecordQueue(max_values=100, max_bytes=1000)
    for step in range(1000):
        queue.append("", {"a": 1.0}, FLOATS, step, 1)
        queue.append("t", "x" * 100, "text", step, 1, 100)
        while len(queue.records) > 3:
            queue.take()
    assert queue.dropped == 0


def test_marks_of_many_threads_differ(tmp_path: Path) -> None:
    """Two threads that save checkpoints at once never get the same mark."""
    marks = list[int]()
    with trainwire.open_bus(tmp_path) as bus:
        threads = [
            threading.Thread(target=lambda: marks.extend(bus.state_dict()["mark"] for _ in range(200)))
            for _ in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert sorted(marks) == list(range(1, 801))


def test_a_watcher_may_close_the_bus(tmp_path: Path) -> None:
    """Closing from a watcher's own thread ends the run and leaves nothing behind."""
    bus = trainwire.open_bus(tmp_path)

    async def watch(event: object) -> None:
        bus.close()

    bus.watch(watch)
    bus.log({"a": 1.0}, step=1)
    wait_until(lambda: not bus._thread.is_alive())
    assert read_events(tmp_path)[-1].name == "run/finished"


def test_a_run_that_could_not_be_opened_can_be_opened_at_once(tmp_path: Path) -> None:
    """An address in use leaves neither a lease nor an attempt nor a folder of sockets behind."""
    with trainwire.open_bus(tmp_path / "a", bind="tcp://127.0.0.1:0") as bus:
        port = bus._thread.writer.server.publish_endpoint.rpartition(":")[2]
        with pytest.raises(UsageError, match="cannot be bound"):
            trainwire.open_bus(tmp_path / "b", bind=f"tcp://127.0.0.1:{port}")
        with trainwire.open_bus(tmp_path / "b") as other:
            assert other.attempt == 0


@pytest.mark.parametrize(
    "options",
    [
        {"rank": 2, "world_size": 2}, {"rank": -1}, {"rank": "a"}, {"flush_interval": "x"}, {"flush_interval": -1},
        {"high_water_mark": 0}, {"state": 5}, {"bind": "tcp://nowhere"},
    ],
)  # fmt: skip
def test_invalid_options_are_refused_first(tmp_path: Path, options: dict) -> None:
    """An invalid option raises OptionError, and leaves no attempt behind."""
    with pytest.raises(OptionError, match="it must be"):
        trainwire.open_bus(tmp_path / "run", **options)
    assert not list_attempts(tmp_path / "run", 0)


@pytest.mark.parametrize(
    ("ending", "name"),
    [("sys.exit(0)", "run/finished"), ("sys.exit(3)", "run/failed"), ("raise KeyboardInterrupt", "run/interrupted")],
)
def test_how_a_script_exits_is_how_its_run_ended(tmp_path: Path, ending: str, name: str) -> None:
    """Leaving the bus's block by an exit with status 0 is not a failure; by Ctrl-C it is an interruption."""
    script = f"import sys, trainwire\nwith trainwire.open_bus({str(tmp_path)!r}):\n    {ending}"
    subprocess.run([sys.executable, "-c", script], capture_output=True, timeout=120, check=False)
    assert read_events(tmp_path)[-1].name == name


def test_an_invalid_socket_folder_is_ignored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An XDG_RUNTIME_DIR that is a file, missing or relative does not stop a training."""
    (tmp_path / "file").write_text("")
    for number, folder in zip(itertools.count(), [str(tmp_path / "file"), "/proc/nope", "relative"], strict=False):
        monkeypatch.setenv("XDG_RUNTIME_DIR", folder)
        with trainwire.open_bus(tmp_path / str(number)) as bus:
            assert bus.attempt == 0
