"""Values that are read when they are recorded: tensors, arrays, and values on a GPU (here a fake one)."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.gpu_values import GPU_RECORDERS
from support.run_reader import read_events, wait_until

import trainwire
from trainwire.bus.queue import Logged
from trainwire.bus.values import gpu
from trainwire.bus.values.coercion import coerce_scalars
from trainwire.bus.values.gpu import DeviceCopy, PendingScalar
from trainwire.bus.values.plain import coerce_plain
from trainwire.bus.writer import Writer


class FakeCudaEvent:
    """A CUDA event that completes when the test sets it."""

    def __init__(self) -> None:
        self.arrived = False

    def query(self) -> bool:
        return self.arrived


def test_cpu_tensors_are_read_at_once(tmp_path: Path) -> None:
    """A tensor that is changed in place after the call does not change what was recorded."""
    loss = torch.tensor(1.5)
    with trainwire.open_bus(tmp_path) as bus:
        bus.log({"loss": loss, "half": torch.tensor([0.5], dtype=torch.bfloat16), "count": torch.tensor(3)}, step=1)
        loss.zero_()
    values = {event.name: event.value for event in read_events(tmp_path) if event.type == "scalar"}
    assert values == {"loss": 1.5, "half": 0.5, "count": 3}


def test_numpy_values_are_plain_numbers() -> None:
    """NumPy's scalars and arrays of one element become Python's numbers."""
    values = coerce_scalars({"a": np.float32(0.5), "b": np.int64(3), "c": np.array([2.0]), "d": np.float64(0.25)})
    assert values == {"a": 0.5, "b": 3, "c": 2.0, "d": 0.25}
    assert {type(value) for value in values.values()} == {float, int}


def test_plain_copies_anything() -> None:
    """Arrays become lists, keys become strings, and so does any other value."""
    plain = coerce_plain({"path": Path("/x"), 3: (1, {2}), "array": np.arange(2), "tensor": torch.ones(1), "n": None})
    assert plain == {"path": "/x", "3": [1, [2]], "array": [0, 1], "tensor": [1.0], "n": None}


class OnGpu(torch.Tensor):
    """A tensor that counts as one on a GPU: reading it fails, as that would wait."""

    is_cuda = True  # type: ignore[assignment]  # a property of the base class

    def tolist(self) -> Any:
        raise AssertionError("reading a tensor waits for the GPU")

    item = numpy = cpu = __array__ = __bool__ = __float__ = __int__ = __index__ = __repr__ = tolist  # type: ignore[assignment]


@pytest.mark.parametrize("way", GPU_RECORDERS)
def test_every_way_of_recording_a_tensor_of_a_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str) -> None:
    """No method reads it on the training thread, and the value is recorded once its copy is complete."""
    record, is_right = GPU_RECORDERS[way]
    arrived, copies = FakeCudaEvent(), list[DeviceCopy]()

    def copy(tensor: torch.Tensor) -> DeviceCopy:
        copies.append(DeviceCopy(tensor.as_subclass(torch.Tensor).clone(), arrived))
        return copies[-1]

    for module in ("gpu", "coercion", "plain", "tensors", "histograms"):
        monkeypatch.setattr(f"trainwire.bus.values.{module}.copy_to_host", copy)
    monkeypatch.setattr(torch.cuda, "device", lambda _: contextlib.nullcontext())
    with trainwire.open_bus(tmp_path) as bus:
        tensor = torch.tensor([1.0, 3.0]).as_subclass(OnGpu)
        record(bus, tensor)
        tensor.zero_()
        assert not any(event.name == "x" for event in read_events(tmp_path)) or not copies
        arrived.arrived = True
    (value,) = [event.value for event in read_events(tmp_path) if event.name == "x"]
    assert is_right(value)


def test_an_unresolved_value_holds_back_what_follows_it(tmp_path: Path) -> None:
    """Events keep the order and steps of the calls, even if the copy of a value from a GPU completes late."""
    arrived = FakeCudaEvent()
    value = PendingScalar(DeviceCopy(torch.tensor([2.5], dtype=torch.float64), arrived), 0)
    with trainwire.open_bus(tmp_path) as bus:
        bus.log({"before": 1.0}, step=1)
        bus._queue.append("", {"gpu": value}, Logged.ANY, 2)
        bus.lifecycle("epoch/finished", step=3, epoch=1)
        wait_until(lambda: any(event.name == "before" for event in read_events(tmp_path)))
        assert not any(event.name in ("gpu", "epoch/finished") for event in read_events(tmp_path))
        arrived.arrived = True
    events = read_events(tmp_path)[1:-1]
    assert [(event.name, event.step) for event in events] == [("before", 1), ("gpu", 2), ("epoch/finished", 3)]
    assert events[1].value == 2.5


def test_a_value_that_never_arrives_is_named_at_close(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """close waits at most for its timeout, and names what it dropped; the rest is recorded."""
    monkeypatch.setattr("trainwire.bus.bus.ENDING_SECONDS", 10.0)
    value = PendingScalar(DeviceCopy(torch.tensor([1.0]), FakeCudaEvent()), 0)
    bus = trainwire.open_bus(tmp_path)
    bus._queue.append("", {"stuck": value}, Logged.ANY, 1)
    bus.log({"after": 1.0}, step=2)
    bus.close(timeout=0.2)
    events = read_events(tmp_path)
    dropped = next(event for event in events if event.name == "events/dropped")
    assert dropped.value["names"] == ("stuck",)
    assert [event.value for event in events if event.name == "after"] == [1.0]
    assert events[-1].name == "run/finished"


def test_a_value_that_never_arrives_holds_back_nothing_at_close(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Records behind a lifecycle event whose value never becomes available are recorded."""
    monkeypatch.setattr(Writer, "take", lambda *_: False)
    monkeypatch.setattr("trainwire.bus.bus.ENDING_SECONDS", 10.0)
    value = PendingScalar(DeviceCopy(torch.tensor([1.0]), FakeCudaEvent()), 0)
    bus = trainwire.open_bus(tmp_path)
    bus.log({"before": 1.0}, step=1)
    bus._queue.append("epoch/finished", {"loss": value}, "lifecycle", 1)
    bus.lifecycle("checkpoint/saved", step=2)
    bus.close(timeout=0.1)
    events = read_events(tmp_path)
    assert [event.name for event in events[1:]] == ["before", "checkpoint/saved", "events/dropped", "run/finished"]
    assert events[-2].value["names"] == ("epoch/finished",)


def test_tensors_of_a_gpu_travel_in_one_copy_for_each_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """Scalars of one call on one GPU are packed into one copy, in the order of the mapping."""

    class OnGpu:
        is_cuda, is_meta, is_quantized, layout = True, False, False, torch.strided

        def __init__(self, value: float, device: str) -> None:
            self.value, self.device = value, device

        def is_complex(self) -> bool:
            return False

        def numel(self) -> int:
            return 1

    packs = []

    def pack(tensors):
        packs.append([tensor.value for tensor in tensors])
        return torch.tensor(packs[-1], dtype=torch.float64)

    monkeypatch.setattr(gpu, "_pack", pack)
    values = coerce_scalars({"a": OnGpu(1.0, "cuda:0"), "b": 2.0, "c": OnGpu(3.0, "cuda:1"), "d": OnGpu(4.0, "cuda:0")})
    assert packs == [[1.0, 4.0], [3.0]]
    resolved = {name: value.resolve() if isinstance(value, PendingScalar) else value for name, value in values.items()}
    assert resolved == {"a": 1.0, "b": 2.0, "c": 3.0, "d": 4.0}


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU on this machine")
def test_logging_from_a_gpu_does_not_synchronise(tmp_path: Path) -> None:
    """Recording does not synchronize, as torch checks, and an in-place update does not change what was recorded."""
    torch.cuda.set_sync_debug_mode("error")
    try:
        with trainwire.open_bus(tmp_path) as bus:
            loss = torch.zeros((), device="cuda")
            for step in range(1000):
                loss += 1
                bus.log({"loss": loss}, step=step)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert [event.value for event in read_events(tmp_path) if event.name == "loss"] == [*map(float, range(1, 1001))]
