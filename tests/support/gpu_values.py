"""Calls that record tensors of a GPU in every way, and checks of the recorded values."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

import trainwire

Recorder = Callable[[trainwire.EventBus, Tensor], None]
"""Records a tensor of shape (2,) that contains 1 and 3."""

GPU_RECORDERS: dict[str, tuple[Recorder, Callable[[Any], object]]] = {
    "log": (lambda bus, x: bus.log({"x": x[1]}, step=1), lambda value: value == 3.0),
    "nested log": (lambda bus, x: bus.log({"x": 2.0, "y": {"z": x[:1]}}, step=1), lambda value: value == 2.0),
    "several in log": (lambda bus, x: bus.log({"bad": x, "x": x.sum()}, step=1), lambda value: value == 4.0),
    "scalars": (lambda bus, x: bus.scalars("x", x, step=1), lambda value: value == (1.0, 3.0)),
    "labels": (lambda bus, x: bus.scalars("x", {"a": x[0], "b": None}, step=1), lambda value: value == {"a": 1.0}),
    "histogram": (lambda bus, x: bus.histogram("x", x.bfloat16(), step=1), lambda value: _has_both(value)),
    "list": (lambda bus, x: bus.histogram("x", [x[0], 3], step=1), lambda value: _has_both(value)),
    "image": (lambda bus, x: bus.image("x", x[None] > 2, step=1), lambda value: value["width"] == 2),
    "images": (lambda bus, x: bus.image("x", [x[None] / 4] * 3, step=1), lambda value: value["width"] == 3 * 2 + 2 * 2),
    "audio": (lambda bus, x: bus.audio("x", (x.half() / 4, 8000), step=1), lambda value: value["frames"] == 2),
    "table": (lambda bus, x: bus.table("x", {"a": [1, 2], "b": x}, step=1), lambda value: _cells(value) == (1.0, 3.0)),
    "array": (lambda bus, x: bus.table("x", x[:, None], step=1), lambda value: value["rows"] == ((1.0,), (3.0,))),
    "lifecycle": (lambda bus, x: bus.lifecycle("x", step=1, scores={"a": x}), lambda value: _scores(value) == (1, 3)),
    "hparams": (lambda bus, x: bus.publish("x", {"lr": 0.1, "bad": x}, "hparams"), lambda value: value["lr"] == 0.1),
    "a bad step": (lambda bus, x: _log_twice(bus, x), lambda value: value == 1.0),
}  # fmt: skip
"""For each way of recording: the call, and whether the value of the event `x` is right."""


def _has_both(histogram: Mapping[str, Any]) -> bool:
    return (histogram["counts"][0], histogram["counts"][-1], histogram["sum"]) == (1, 1, 4.0)


def _cells(table: Mapping[str, Any]) -> tuple[Any, ...]:
    return tuple(row[1] for row in table["rows"])


def _scores(value: Mapping[str, Any]) -> object:
    return value["scores"]["a"]


def _log_twice(bus: trainwire.EventBus, x: Tensor) -> None:
    bus.log({"y": x[0]}, step=x[0])  # type: ignore[arg-type]  # refused
    bus.log({"x": 1.0}, step=1)
