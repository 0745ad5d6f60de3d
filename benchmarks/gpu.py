"""The cost of logging tensors in a step on a GPU, whose values the processor does not have yet."""

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
from benchmarks.measurement import Size, log_nothing
from benchmarks.report import Result

STEPS_PER_BLOCK = 200
WIDTH = 1024

TrainingStep = Callable[[], tuple[Tensor, Tensor]]
"""Returns the loss and the norm of the gradients."""

Log = Callable[[int, Tensor, Tensor], object]


def gpu_step(size: Size) -> Iterator[Result]:
    """A GPU step that logs its loss and gradient norm, as tensors and with `.item()`, relative to one without."""
    name = "a GPU step with loss and gradient norm"
    if not torch.cuda.is_available():
        yield Result(name, "not measured: no GPU is available", "1.01")
        return
    control, ours, synchronized = compare("cuda", size.of(60, 5))
    measured = f"{ours:.3f} (control {control:.3f}; {torch.cuda.get_device_name()})"
    yield Result(name, measured, "1.01", ours <= 1.01)
    yield Result("that step with `.item()` in place of tensors", f"{synchronized:.3f}")


def compare(device: str, blocks: int) -> tuple[float, float, float]:
    """Return the time of a step that logs nothing, tensors or numbers, each relative to a step that logs nothing."""
    with tempfile.TemporaryDirectory() as folder, trainwire.open_bus(Path(folder) / "run") as bus:
        logs: list[Log] = [
            log_nothing,
            log_nothing,
            lambda step, loss, norm: bus.log({"train/loss": loss, "train/grad_norm": norm}, step=step),
            lambda step, loss, norm: bus.log({"train/loss": loss.item(), "train/grad_norm": norm.item()}, step=step),
        ]
        base, control, tensors, numbers = alternate(make_training_step(device), logs, blocks)
    return control / base, tensors / base, numbers / base


def make_training_step(device: str) -> TrainingStep:
    """Return a step of Adam on a network with three linear layers, with the same data each time."""
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


def alternate(train: TrainingStep, logs: Sequence[Log], blocks: int) -> list[float]:
    """Return the median seconds of a block for each of `logs`, in alternating blocks; the first round is a warm-up."""
    times: list[list[float]] = [[] for _ in logs]
    number = itertools.count()
    for _ in range(blocks + 1):
        for log, own_times in zip(logs, times, strict=True):
            own_times.append(time_block(train, log, next(number) * STEPS_PER_BLOCK))
    return [statistics.median(own_times[1:]) for own_times in times]


def time_block(train: TrainingStep, log: Log, first: int) -> float:
    """Return the seconds of a block of steps, until the GPU has finished all of them."""
    start = time.perf_counter()
    for step in range(first, first + STEPS_PER_BLOCK):
        log(step, *train())
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - start
