"""Models that are compiled during the training, with backends that need no compiler."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from support.resumed_trainings import Interrupt
from support.tiny_training import linear, make_trainer, train
from torch import nn

from trainwire_protocol.errors import OptionError

EAGER = {"backend": "eager"}


@pytest.fixture(autouse=True)
def fresh_compiler() -> None:
    """Forget what other tests have compiled."""
    torch.compiler.reset()


def test_a_compiled_model_trains_as_the_plain_one(tmp_path: Path) -> None:
    """It calls the backend; the weights are equal and have the names of the plain model, which is plain again."""
    graphs: list[Any] = []

    def backend(graph: Any, inputs: Any) -> Any:
        graphs.append(inputs)
        return graph.forward

    model, expected = linear(), linear()
    train(tmp_path / "compiled", trainer=make_trainer(model), compile={"backend": backend})
    train(tmp_path / "plain", trainer=make_trainer(expected))
    assert len(graphs) > 1  # the first is that of the trial
    assert torch.equal(model.weight, expected.weight)
    assert torch.load(tmp_path / "compiled" / "final-model.pt", weights_only=True).keys() == {"weight", "bias"}
    assert model._compiled_call_impl is None


@pytest.mark.parametrize("choices", [(EAGER, False), (False, EAGER)])
def test_a_training_is_resumed_with_or_without(tmp_path: Path, choices: tuple[Any, Any]) -> None:
    """The weights are those of a training that was not interrupted."""
    expected = linear()
    train(tmp_path / "whole", trainer=make_trainer(expected))
    before, after = choices
    train(tmp_path / "parts", Interrupt(4), compile=before)
    model = linear()
    train(tmp_path / "parts", trainer=make_trainer(model), compile=after, resume=True)
    assert torch.equal(model.weight, expected.weight)


def test_what_cannot_be_compiled_is_refused(tmp_path: Path) -> None:
    """The error is raised before the first batch, and says why."""

    def missing(graph: Any, inputs: Any) -> Any:
        raise RuntimeError("there is no compiler")

    for choice, message in (
        ({"backend": missing}, "torch.compile fails with .*there is no compiler"),
        ({"backend": "none"}, "torch.compile fails with .*none"),
        ({"level": 3}, "torch.compile fails with .*level"),
        (3, "compile is 3; it must be True, False, or a mapping"),
    ):
        with pytest.raises(OptionError, match=message):
            train(tmp_path, compile=choice)
    wrapped = torch.compile(linear(), backend="eager")
    with pytest.raises(OptionError, match="the model is compiled or wrapped already"):
        train(tmp_path, trainer=make_trainer(wrapped), compile=EAGER)  # type: ignore[arg-type]  # it is a module
    parts = nn.ModuleDict({"generator": linear()})
    with pytest.raises(OptionError, match="compile has no effect, as ModuleDict has no forward"):
        train(tmp_path, trainer=make_trainer(parts), dev=None, train=[(1, 2)], compile=EAGER)
