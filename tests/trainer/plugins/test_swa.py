"""Stochastic weight averaging."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from support.run_reader import read_events
from support.tiny_training import linear, make_trainer, points, train
from torch import Tensor, nn

from trainwire import Plugin, hook
from trainwire.plugins.swa import SWA
from trainwire.training.hooks.payloads import AfterTrainingEpoch
from trainwire.training.model.models import load_model
from trainwire_protocol.errors import OptionError


class Weights(Plugin):
    """Records the model's weights after each epoch."""

    def __init__(self) -> None:
        self.trained: list[Tensor] = []

    @hook
    def after_training_epoch(self, epoch: AfterTrainingEpoch) -> None:
        self.trained.append(self.run.model.get_parameter("weight").detach().clone())


def final_weight(folder: Path) -> Tensor:
    load_model(model := linear(), folder / "final-model.pt")
    return model.weight.detach()


@pytest.mark.parametrize(("start", "first"), [(None, 3), (2, 1), (4, 3), (1, 0)])
def test_the_final_model_is_the_average_of_the_last_epochs(tmp_path: Path, start: int | None, first: int) -> None:
    """The epochs from `start` on are averaged; by default, those of the last quarter."""
    seen = Weights()
    train(tmp_path, SWA(start), seen, max_epochs=4, learning_rate=1.0)
    torch.testing.assert_close(final_weight(tmp_path), torch.stack(seen.trained[first:]).mean(0))


def test_the_learning_rate_is_annealed(tmp_path: Path) -> None:
    """From `start` on, the rate is annealed in `anneal_epochs` epochs, and each change is published."""
    averaging = SWA(2, learning_rate=0.5, anneal_epochs=2, anneal_strategy="linear")
    result = train(tmp_path, averaging, max_epochs=5, attach_default_scheduler=False)
    rates = [metrics["learning_rate"] for metrics in result.history]
    assert rates == pytest.approx([0.1, 0.1, 0.3, 0.5, 0.5])
    published = [event.value for event in read_events(tmp_path) if event.name == "learning_rate/changed"]
    assert [change["to"] for change in published] == pytest.approx([0.3, 0.5])


def test_batch_norm_statistics_are_recomputed(tmp_path: Path) -> None:
    """The statistics of a batch norm are those of the training data with averaged weights."""
    model = nn.Sequential(linear(), nn.BatchNorm1d(2), nn.Linear(2, 2))
    data = points(48)
    train(tmp_path, SWA(1), trainer=make_trainer(model), train=data, mini_batch_size=48)
    with torch.no_grad():
        outputs = model[0](data.tensors[0])
    torch.testing.assert_close(model[1].running_mean, outputs.mean(0))
    torch.testing.assert_close(model[1].running_var, outputs.var(0))


def test_a_restored_average_continues(tmp_path: Path) -> None:
    """Saving and restoring the state does not change average and learning rate."""

    class Restart(Plugin):
        @hook
        def after_training_epoch(self, epoch: Any) -> None:
            state = averaging.state_dict()
            averaging.after_setup(None)  # type: ignore[arg-type]  # the hook does not use its payload
            averaging.load_state_dict(state)

    def make() -> SWA:
        return SWA(2, learning_rate=0.5, anneal_epochs=2)

    averaging = make()
    first = train(tmp_path / "a", averaging, Restart(), max_epochs=4)
    second = train(tmp_path / "b", make(), max_epochs=4)
    assert first.history == second.history
    assert torch.equal(final_weight(tmp_path / "a"), final_weight(tmp_path / "b"))


def test_a_training_that_ends_before_the_start_keeps_its_weights(tmp_path: Path) -> None:
    """An incomplete epoch is not averaged, and without any complete one the weights are kept."""
    seen, trainer = Weights(), make_trainer()
    trainer.on("after_training_batch")(lambda batch: trainer.control.stop("enough") if batch.step == 5 else None)
    train(tmp_path, SWA(2), seen, trainer=trainer)
    assert torch.equal(final_weight(tmp_path), seen.trained[-1])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"start": 0}, "start is 0"), ({"learning_rate": 0.0}, "learning_rate is 0.0"),
        ({"anneal_strategy": "step"}, "anneal_strategy 'step'"),
        ({"start": 9}, "start is 9, but the training has 2 epochs"),
    ],
)  # fmt: skip
def test_invalid_arguments_are_refused(tmp_path: Path, arguments: dict[str, Any], message: str) -> None:
    """An argument out of range raises OptionError before the first batch."""
    with pytest.raises(OptionError, match=message):
        train(tmp_path, SWA(**arguments))
