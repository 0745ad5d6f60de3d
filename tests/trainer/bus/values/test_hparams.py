"""Hyperparameters and other maps in every form that users have them."""

from __future__ import annotations

import argparse
import collections
import dataclasses
import datetime
import enum
import os
import types
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pytest
import torch
from support.recorded_values import recorded
from support.run_reader import read_events, wait_until

import trainwire
from trainwire.bus.values.plain import MAX_HPARAMS_BYTES


@dataclasses.dataclass
class Optimizer:
    lr: float = 0.1
    betas: tuple[float, float] = (0.9, 0.999)


@dataclasses.dataclass
class Config:
    optimizer: Optimizer = dataclasses.field(default_factory=Optimizer)
    epochs: int = 3


class Interpolated(Mapping[str, Any]):
    """A configuration with a value that is missing, as those of OmegaConf may be."""

    def __getitem__(self, key: str) -> Any:
        if key == "seed":
            raise LookupError("mandatory value is missing")
        return 3

    def __iter__(self) -> Iterator[str]:
        return iter(("seed", "epochs"))

    def __len__(self) -> int:
        return 2


class Pretrained:
    """A configuration as those of Hugging Face are."""

    def to_dict(self) -> dict[str, Any]:
        return {"epochs": 3}


class Settings:
    """Holds its parameters as attributes, of the class and of the instance."""

    epochs = 3

    def __init__(self) -> None:
        self._hidden = 1

    def run(self) -> None:
        """Do nothing."""


class Color(enum.Enum):
    RED = "red"


class Evil:
    def __repr__(self) -> str:
        raise RuntimeError("evil")


def hparams(folder: Path, value: Any) -> Any:
    """Record hyperparameters, and return them as they are in the journal."""
    return recorded(folder, lambda bus: bus.hparams(value)).get("hparams")


@pytest.mark.parametrize(
    "value",
    [
        {"epochs": 3}, argparse.Namespace(epochs=3), types.SimpleNamespace(epochs=3), Settings(), Settings,
        collections.namedtuple("Options", ["epochs"])(3), Pretrained(), types.MappingProxyType({"epochs": 3}),
        collections.ChainMap({"epochs": 3}, {"epochs": 4}),
    ],
)  # fmt: skip
def test_every_object_with_fields(tmp_path: Path, caplog: Any, value: Any) -> None:
    """Mappings and configuration objects of all kinds are hyperparameters, given to `open_bus` too."""
    with trainwire.open_bus(tmp_path, hparams=value) as bus:
        assert bus.hyperparameters == {"epochs": 3}
    assert [event.value for event in read_events(tmp_path) if event.type == "hparams"] == [{"epochs": 3}]
    assert not caplog.records


def test_nested_objects_are_maps(tmp_path: Path) -> None:
    """A dataclass in a dataclass, or in a list, is a map."""
    found = hparams(tmp_path, {"config": Config(), "all": [Optimizer(0.5)], "space": argparse.Namespace(a=1)})
    assert found["config"] == {"optimizer": {"lr": 0.1, "betas": (0.9, 0.999)}, "epochs": 3}
    assert found["all"] == ({"lr": 0.5, "betas": (0.9, 0.999)},)
    assert found["space"] == {"a": 1}


def test_values_of_other_types_are_numbers_lists_or_texts(tmp_path: Path, caplog: Any) -> None:
    """Values of Python, NumPy and PyTorch are recorded as people write them."""
    given = {
        "enum": Color.RED, "path": PurePosixPath("/data"), "date": datetime.date(2020, 1, 2), "dtype": torch.bfloat16,
        "device": torch.device("cuda:1"), "time": np.datetime64("2020-01-02", "ns"), "class": torch.optim.SGD,
        "times": np.array(["2020-01-02"], "M8[ns]"), "number": np.float16(0.5), "array": np.arange(2), "big": 2**70,
        "tensor": torch.ones(2).bfloat16(), "size": torch.Size([2, 3]), "set": {"b", "a"},
        "deque": collections.deque([1]),
        "sparse": torch.eye(2).to_sparse(), "flag": np.True_, "none": None, "complex": 2j,
    }  # fmt: skip
    assert hparams(tmp_path, given) == {
        "enum": "red", "path": "/data", "date": "2020-01-02", "dtype": "torch.bfloat16", "device": "cuda:1",
        "time": "2020-01-02T00:00:00.000000000", "class": "torch.optim.sgd.SGD", "number": 0.5, "array": (0, 1),
        "times": ("2020-01-02T00:00:00.000000000",), "big": str(2**70), "tensor": (1.0, 1.0), "size": (2, 3),
        "set": ("a", "b"), "deque": (1,), "sparse": "a Tensor of shape (2, 2) and type torch.float32", "flag": True,
        "none": None, "complex": "2j",
    }  # fmt: skip
    assert not caplog.records


@pytest.mark.parametrize(
    ("bad", "text"),
    [
        ("é" * (1 << 20), "é" * (1 << 19)), (os.fsdecode(b"\xff.txt"), "\\udcff.txt"), (Evil(), "<Evil>"),
        ([{"deep": "\ud800"}], ({"deep": "\\ud800"},)), (Interpolated(), {"seed": "<LookupError>", "epochs": 3}),
    ],
)  # fmt: skip
def test_one_bad_item_is_a_text_and_the_others_are_kept(tmp_path: Path, caplog: Any, bad: Any, text: Any) -> None:
    """What cannot be recorded is replaced, which one line says with its name."""
    assert hparams(tmp_path, {"lr": 0.1, "bad": bad, "epochs": 3}) == {"lr": 0.1, "bad": text, "epochs": 3}
    assert len(caplog.records) == 1
    assert "'bad" in caplog.text


def test_keys_that_are_the_same_text_are_kept_apart(tmp_path: Path, caplog: Any) -> None:
    """Keys that are no strings become texts; two that would be the same are told apart, with a line."""
    assert hparams(tmp_path, {"classes": {1: "a", "1": "b", (2, 3): "c"}}) == {
        "classes": {"1": "a", "1 (str)": "b", "(2, 3)": "c"}
    }
    assert "renamed" in caplog.text


def test_a_map_that_contains_itself_ends(tmp_path: Path) -> None:
    """Maps nested too deep end in a text."""
    endless: dict[str, Any] = {"lr": 0.1}
    endless["self"] = endless
    endless["tensor"], endless["array"] = torch.zeros([1] * 9), np.zeros([1] * 9)
    assert hparams(tmp_path, endless)["lr"] == 0.1


def test_large_items_are_replaced_until_the_others_fit(tmp_path: Path, caplog: Any) -> None:
    """Hyperparameters too large to be recorded lose their largest item only."""
    large, small = np.zeros(MAX_HPARAMS_BYTES // 16 + 1), np.zeros(100)
    found = hparams(tmp_path, {"lr": 0.1, "weights": large, "prior": small})
    assert (found["lr"], len(found["prior"])) == (0.1, 100)
    assert isinstance(found["weights"], str)
    assert "'weights'" in caplog.text


@pytest.mark.parametrize("value", [None, 5, "text", [("lr", 0.1)], len, torch.ones(2)])
def test_what_has_no_fields_is_refused(tmp_path: Path, caplog: Any, value: Any) -> None:
    """Anything else is refused by one line with the remedy."""
    assert hparams(tmp_path, value) is None
    assert len(caplog.records) == 1
    assert "vars(arguments)" in caplog.text


def test_lifecycle_fields_are_read_as_hyperparameters_are(tmp_path: Path) -> None:
    """Metrics of an epoch may be tensors and numbers of NumPy, in nested maps."""
    with trainwire.open_bus(tmp_path) as bus:
        bus.lifecycle("epoch/finished", epoch=np.int64(1), metrics={"dev/f1": torch.tensor(0.5), "n": np.float32(2)})
    event = next(event for event in read_events(tmp_path) if event.name == "epoch/finished")
    assert event.value == {"epoch": 1, "metrics": {"dev/f1": 0.5, "n": 2.0}}


@pytest.mark.parametrize("value", [5, None, b"bytes", ["list"]])
def test_a_text_is_a_text(tmp_path: Path, caplog: Any, value: Any) -> None:
    """Anything but a text or a path is refused by one line with the remedy."""
    assert recorded(tmp_path / "path", lambda bus: bus.text("x", tmp_path, step=1)) == {"x": str(tmp_path)}
    assert not recorded(tmp_path / "bad", lambda bus: bus.text("x", value, step=1))
    assert caplog.messages[-1].endswith("pass a text, such as str(value)")


def test_a_trainer_with_large_hyperparameters_stays_reachable(tmp_path: Path) -> None:
    """`trainwire ping` reaches it, and the journal holds every hyperparameter."""
    command = pytest.importorskip("trainwire_sinks.cli.app").run
    weights = np.random.default_rng(1).random(700_000)
    with trainwire.open_bus(tmp_path, hparams={"lr": 0.1, "weights": weights}):
        wait_until(lambda: any(event.type == "hparams" for event in read_events(tmp_path)))
        assert command(["ping", str(tmp_path)]) == 0
    event = next(event for event in read_events(tmp_path) if event.type == "hparams")
    assert event.value["weights"] == tuple(weights.tolist())
