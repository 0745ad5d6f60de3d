"""Values that are logged from a GPU are correct, and logging does not wait for it.

The logic is also tested without a GPU in `test_coercion.py`, with a copy that completes when the test decides.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from support.gpu_values import GPU_RECORDERS
from support.run_reader import read_events
from support.tiny_training import corpus, linear, make_trainer, train
from torch import Tensor, nn

import trainwire
from trainwire import Plugin, hook
from trainwire.training.hooks.payloads import AfterTrainingBatch, BeforeTrainingBatch

pytestmark = [
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU on this machine"),
    pytest.mark.filterwarnings("ignore:Synchronization debug mode is a prototype"),  # torch says so at its first use
]


@contextmanager
def without_synchronisation() -> Iterator[None]:
    """Enable torch's check, which raises an error if the CPU waits for the GPU."""
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


def values(folder: Path, name: str) -> list[Any]:
    return [event.value for event in read_events(folder) if event.name == name]


def test_an_in_place_update_does_not_change_what_was_recorded(tmp_path: Path) -> None:
    """Thousands of pending values are those at the time of each call, also at close."""
    with trainwire.open_bus(tmp_path) as bus, without_synchronisation():
        loss = torch.zeros((), device="cuda")
        for step in range(5000):
            loss += 1
            bus.log({"loss": loss, "half": loss / 2}, step=step)
    assert values(tmp_path, "loss") == [float(step) for step in range(1, 5001)]
    assert values(tmp_path, "half") == [step / 2 for step in range(1, 5001)]


def test_values_of_several_streams(tmp_path: Path) -> None:
    """A value is copied on the stream on which it is logged, after what computes it."""
    streams = [torch.cuda.Stream() for _ in range(4)]
    with trainwire.open_bus(tmp_path) as bus, without_synchronisation():
        for number, stream in enumerate(streams):
            with torch.cuda.stream(stream):
                value = torch.full((), float(number), device="cuda")
                for _ in range(1000):
                    value = value + 1
                bus.log({f"stream-{number}": value}, step=number)
    assert [values(tmp_path, f"stream-{number}") for number in range(4)] == [[1000.0 + number] for number in range(4)]


def test_under_compile_and_autocast(tmp_path: Path) -> None:
    """A compiled model in half precision logs what it computed."""
    torch.manual_seed(1)
    model = torch.compile(nn.Linear(8, 1).cuda())
    inputs, losses = torch.randn(16, 8, device="cuda"), list[Tensor]()
    with trainwire.open_bus(tmp_path) as bus:
        for step in range(20):
            with torch.autocast("cuda", torch.bfloat16):
                loss = model(inputs).square().mean()
            losses.append(loss.detach().clone())
            bus.log({"loss": loss}, step=step)
    assert values(tmp_path, "loss") == [float(loss) for loss in losses]


def test_beside_a_captured_graph(tmp_path: Path) -> None:
    """A graph's output is logged after each replay, outside the capture."""
    source = torch.zeros(4, device="cuda")
    graph = torch.cuda.CUDAGraph()
    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        (source * 2).sum()
    torch.cuda.current_stream().wait_stream(side)
    with torch.cuda.graph(graph):
        output = (source * 2).sum()
    with trainwire.open_bus(tmp_path) as bus:
        for step in range(100):
            source.fill_(step)
            graph.replay()
            bus.log({"output": output}, step=step)
    assert values(tmp_path, "output") == [8.0 * step for step in range(100)]


@pytest.mark.parametrize("way", GPU_RECORDERS)
def test_every_way_of_recording_a_tensor(tmp_path: Path, way: str) -> None:
    """No method waits for the GPU, and a later change of the tensor does not alter what was recorded."""
    record, is_right = GPU_RECORDERS[way]
    tensor = torch.tensor([1.0, 3.0], device="cuda")
    with trainwire.open_bus(tmp_path) as bus, without_synchronisation():
        record(bus, tensor)
        tensor.zero_()
    (value,) = values(tmp_path, "x")
    assert is_right(value)


class Watched(Plugin):
    """Lets torch check every step except the first, which does the one-time setup."""

    @hook
    def before_training_batch(self, batch: BeforeTrainingBatch) -> None:
        torch.cuda.set_sync_debug_mode("error" if batch.number > 1 else "default")

    @hook
    def after_training_batch(self, batch: AfterTrainingBatch) -> None:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("precision", [False, "bf16"])
def test_a_step_of_the_trainer_does_not_wait(tmp_path: Path, precision: Any) -> None:
    """Loss, gradient norm and learning rate are recorded in each step, without waiting for the GPU."""
    trainer = make_trainer(linear().cuda())
    result = train(tmp_path, Watched(), trainer=trainer, corpus=corpus(train=96), use_amp=precision)
    assert result.steps == 12
    assert len(values(tmp_path, "train/batch_loss")) == 12
