"""Compiled and parallel models: their weights have the names of the model inside."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from support.run_reader import read_events
from support.tiny_training import make_trainer, points, train
from torch import Tensor, distributed, nn
from torch.nn.parallel import DataParallel, DistributedDataParallel

from trainwire.plugins.checkpoints import Checkpoints
from trainwire.plugins.ema import EMA
from trainwire.plugins.histograms import Histograms
from trainwire.plugins.swa import SWA
from trainwire.plugins.weight_extraction import WeightExtraction
from trainwire.training.model.models import load_model, plain_names


class Network(nn.Module):
    """A body and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.body: nn.Module = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4))
        self.head: nn.Module = nn.Linear(4, 2)

    def forward(self, inputs: Tensor) -> Tensor:
        output: Tensor = self.head(self.body(inputs))
        return output


def compiled(module: nn.Module) -> Any:
    return torch.compile(module, backend="eager")


def network(*, body: Any = None, whole: Any = None) -> nn.Module:
    """Return a network that always has the same weights, with wrappers around its body and around itself."""
    torch.manual_seed(5)
    model = Network()
    model.body = body(model.body) if body else model.body
    wrapped: nn.Module = whole(model) if whole else model
    return wrapped


@pytest.fixture
def process_group(tmp_path: Path) -> Iterator[None]:
    """Initialize a process group of one process."""
    store = distributed.FileStore(str(tmp_path / "store"), 1)
    distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    yield
    distributed.destroy_process_group()


WRAPPERS: dict[str, dict[str, Any]] = {
    "compiled": {"whole": compiled},
    "parallel": {"whole": DataParallel},
    "distributed": {"whole": DistributedDataParallel},
    "compiled parallel": {"whole": lambda model: compiled(DataParallel(model))},
    "compiled part": {"body": compiled},
    "parallel part of a compiled one": {"body": DataParallel, "whole": compiled},
}


@pytest.mark.parametrize("kind", WRAPPERS)
@pytest.mark.usefixtures("process_group")
def test_a_wrapped_model_is_saved_as_a_plain_one(tmp_path: Path, kind: str) -> None:
    """Its files, its checkpoints and the names of its metrics are those of the plain model, in every respect."""
    plugins = lambda: (  # noqa: E731  # for each training
        EMA(0.5),
        SWA(1),
        Checkpoints(epochs=1),
        Histograms(every=2),
        WeightExtraction(every=2),
    )
    options: dict[str, Any] = {"save_model_each_k_epochs": 1, "learning_rate": 0.05}
    results = {}
    for name, wrappers in {"wrapped": WRAPPERS[kind], "plain": {}}.items():
        model = network(**wrappers)
        results[name] = train(tmp_path / name, *plugins(), trainer=make_trainer(model), **options)
        # Another two epochs of the wrapped one are trained without wrappers, and the other way round.
        resumed = network(**({} if wrappers else WRAPPERS[kind]))
        train(tmp_path / name, *plugins(), trainer=make_trainer(resumed), max_epochs=4, resume=True, **options)
    for file in ("best-model.pt", "final-model.pt", "model-epoch-1.pt", "model-epoch-4.pt"):
        found, expected = (torch.load(tmp_path / name / file, weights_only=True) for name in results)
        Network().load_state_dict(found)
        assert list(found) == list(expected)
        for weights, value in found.items():
            torch.testing.assert_close(value, expected[weights])
    load_model(again := network(**WRAPPERS[kind]), tmp_path / "wrapped" / "best-model.pt")
    best = torch.load(tmp_path / "wrapped" / "best-model.pt", weights_only=True)
    assert torch.equal(next(again.parameters()), best["body.0.weight"])
    events = [{event.name for event in read_events(tmp_path / name)} for name in results]
    assert events[0] == events[1] >= {"parameters/body.0.weight", "weights/head.weight"}
    hparams = [event.value for name in results for event in read_events(tmp_path / name) if event.type == "hparams"]
    assert {each["model"] for each in hparams} == {"Network"}


def test_names_of_wrapped_parts() -> None:
    """Only the parts that wrappers add are removed, and the name of a wrapped module is that of its wrapper."""
    model = network(body=DataParallel, whole=compiled)
    assert plain_names(model, ["_orig_mod.body.module.0.weight", "_orig_mod.body.module", "_orig_mod"]) == {
        "_orig_mod.body.module.0.weight": "body.0.weight", "_orig_mod.body.module": "body", "_orig_mod": "",
    }  # fmt: skip
    own = nn.ModuleDict({"module": nn.Linear(1, 1)})
    assert plain_names(own, own.state_dict()) == {"module.weight": "module.weight", "module.bias": "module.bias"}


def test_decoder_parts_have_plain_names(tmp_path: Path) -> None:
    """`is_decoder` is called with the names of the plain model."""
    trainer = make_trainer(network(whole=compiled))
    seen: list[str] = []
    trainer.is_decoder = lambda name: bool(seen.append(name)) or name.startswith("head.")  # type: ignore[method-assign, func-returns-value]
    train(tmp_path, trainer=trainer, train=points(16), decoder_learning_rate=0.5, max_epochs=1)
    assert set(seen) == {"body.0.weight", "body.0.bias", "body.1.weight", "body.1.bias", "head.weight", "head.bias"}


class Centers(nn.Module):
    """The distance to the centre of the class, which is learned."""

    def __init__(self) -> None:
        super().__init__()
        self.centers = nn.Parameter(torch.eye(2))

    def forward(self, output: Tensor, target: Tensor) -> Tensor:
        return (output - self.centers[target]).square().sum(1).mean()


@pytest.mark.filterwarnings("ignore:The .grad attribute")  # torch reads that of the output, while it compiles
def test_a_compiled_loss_is_saved_and_resumed_like_a_plain_one(tmp_path: Path) -> None:
    options: dict[str, Any] = {"train": points(48), "attach_default_scheduler": False, "resume": True}
    whole, rest = Centers(), Centers()
    train(tmp_path / "whole", trainer=make_trainer(loss=whole), max_epochs=4, **options)

    train(tmp_path / "parts", trainer=make_trainer(loss=compiled(Centers())), max_epochs=2, **options)
    train(tmp_path / "parts", trainer=make_trainer(loss=rest), max_epochs=4, **options)

    assert not torch.equal(whole.centers, torch.eye(2))
    assert torch.equal(rest.centers, whole.centers)
