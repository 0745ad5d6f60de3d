"""Weight extraction."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from support.gpu_waits import fail_on_gpu_wait
from support.run_reader import read_events
from support.tiny_training import make_trainer, train
from torch import nn

from trainwire.plugins.weight_extraction import WeightExtraction
from trainwire.training.hooks.payloads import AfterTrainingBatch
from trainwire_protocol.errors import OptionError
from trainwire_protocol.events import Event


def weights(folder: Path) -> list[Event]:
    return [event for event in read_events(folder) if event.name.startswith("weights/")]


def test_weights_are_published_with_the_values_after_the_step(tmp_path: Path) -> None:
    """At every second step, the weights of each parameter are published by index with their values at that step."""
    trainer, seen = make_trainer(), dict[int, torch.Tensor]()

    @trainer.on("after_training_batch")
    def keep(batch: AfterTrainingBatch) -> None:
        seen[batch.step] = torch.clone(trainer.model.get_parameter("weight").detach())

    train(tmp_path, fail_on_gpu_wait(WeightExtraction(every=2, count=4)), trainer=trainer)
    found = weights(tmp_path)
    assert [(event.name, event.step) for event in found] == [
        (f"weights/{name}", step) for step in (2, 4, 6) for name in ("weight", "bias")
    ]
    for event in found[::2]:
        expected = seen[event.step]
        assert event.value == {at: float(expected[int(at[0]), int(at[2])]) for at in ("0,0", "0,2", "1,0", "1,2")}
    assert list(found[1].value) == ["0", "1"]


def test_parameters_are_selected_by_name(tmp_path: Path) -> None:
    """Only parameters that match a pattern are published; a scalar parameter has an empty index."""
    model = nn.Sequential(nn.Linear(4, 2), nn.PReLU())
    model[1].weight = nn.Parameter(torch.tensor(0.5))
    train(tmp_path, WeightExtraction(every=6, parameters="1.*"), trainer=make_trainer(model))
    (event,) = weights(tmp_path)
    assert (event.name, list(event.value)) == ("weights/1.weight", [""])


def test_invalid_arguments_are_refused(tmp_path: Path) -> None:
    """A count below 1, or a pattern that matches no parameter, raises OptionError."""
    with pytest.raises(OptionError, match="every is 1 and count is 0"):
        WeightExtraction(every=1, count=0)
    with pytest.raises(OptionError, match=r"no parameter matches \('encoder.\*',\); the parameters are weight, bias"):
        train(tmp_path, WeightExtraction(parameters=["encoder.*"]))
