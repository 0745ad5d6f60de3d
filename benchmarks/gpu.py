"""What a step on a GPU pays for logging its tensors, which the processor does not have yet."""

from __future__ import annotations

import itertools
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

import trainwire
from benchmarks.result import Result, Size

STEPS_PER_BLOCK = 200
WIDTH = 1024

Training = Callable[[], tuple[Tensor, Tensor]]
"""One step; gives the loss and the norm of the gradients."""

Log = Callable[[int, Tensor, Tensor], object]


def gpu_step(size: Size) -> Iterator[Result]:
    """A step on a GPU that logs its loss and gradient norm, against one that logs nothing, and one with `.item()`."""
    if not torch.cuda.is_available():
        yield Result("a GPU step with loss and gradient norm", "not measured: there is no GPU here", "1.01")
        return
    control, ours, waiting = compare("cuda", size.of(60, 5))
    device = torch.cuda.get_device_name()
    told = f"{ours:.3f} (none against none {control:.3f}; {device})"
    yield Result("a GPU step with loss and gradient norm", told, "1.01", ours <= 1.01)
    yield Result("that step with `.item()` in place of tensors", f"{waiting:.3f}")


def compare(device: str, blocks: int) -> tuple[float, float, float]:
    """The time of a step that logs nothing, tensors, and numbers, as ratios to that of one that logs nothing."""
    with tempfile.TemporaryDirectory() as folder, trainwire.open_bus(Path(folder) / "run") as bus:
        logs: list[Log] = [
            nothing,
            nothing,
            lambda step, loss, norm: bus.log({"train/loss": loss, "train/grad_norm": norm}, step=step),
            lambda step, loss, norm: bus.log({"train/loss": loss.item(), "train/grad_norm": norm.item()}, step=step),
        ]
        none, *others = alternate(make_training(device), logs, blocks)
    return others[0] / none, others[1] / none, others[2] / none


def nothing(*_: object) -> None:
    """What a step without logging logs."""


def make_training(device: str) -> Training:
    """A network of three layers with Adam, on the same data at each step."""
    torch.manual_seed(0)
    layers = [nn.Linear(WIDTH, WIDTH), nn.ReLU(), nn.Linear(WIDTH, WIDTH), nn.ReLU(), nn.Linear(WIDTH, 10)]
    model = nn.Sequential(*layers).to(device)
    optimizer = torch.optim.Adam(model.parameters())
    inputs, labels = torch.rand(256, WIDTH, device=device), torch.randint(10, (256,), device=device)

    def train() -> tuple[Tensor, Tensor]:
        optimizer.zero_grad(set_to_none=True)
        loss = nn.functional.cross_entropy(model(inputs), labels)
        loss.backward()
        norm = nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        return loss.detach(), norm

    return train


def alternate(train: Training, logs: Sequence[Log], blocks: int) -> list[float]:
    """The median seconds of a block of each way of logging, the GPU's work included; the first round warms up."""
    times: list[list[float]] = [[] for _ in logs]
    number = itertools.count()
    for _ in range(blocks + 1):
        for log, own in zip(logs, times, strict=True):
            own.append(time_block(train, log, next(number) * STEPS_PER_BLOCK))
    return [statistics.median(own[1:]) for own in times]


def time_block(train: Training, log: Log, first: int) -> float:
    """Seconds of a block of steps, until the GPU has done them all."""
    begun = time.perf_counter()
    for step in range(first, first + STEPS_PER_BLOCK):
        log(step, *train())
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - begun
