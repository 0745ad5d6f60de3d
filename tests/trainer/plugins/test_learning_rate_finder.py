"""The learning rate range test, compared with a loop in plain PyTorch."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from support.resumed_trainings import Interrupt
from support.run_reader import read_events
from support.tiny_training import linear, make_trainer, points, train
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader

from trainwire import Plugin
from trainwire.plugins.learning_rate_finder import LearningRateFinder
from trainwire_protocol.errors import OptionError

OPTIONS: dict[str, Any] = {"optimizer_arguments": {"momentum": 0.9}, "max_grad_norm": None}


def batches() -> DataLoader[Any]:
    return DataLoader(points(96), 16)


def step(model: nn.Module, optimizer: torch.optim.Optimizer, batch: Any) -> float:
    optimizer.zero_grad()
    loss = functional.cross_entropy(model(batch[0]), batch[1])
    loss.backward()  # type: ignore[no-untyped-call]  # torch's own
    optimizer.step()
    return loss.item()


def curve(rates: list[float], smoothing: float = 0.9) -> list[float]:
    """Return the average of the losses after each step, in plain PyTorch."""
    model, average, found = linear(), 0.0, []
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    for number, (rate, batch) in enumerate(zip(rates, batches(), strict=False), start=1):
        optimizer.param_groups[0]["lr"] = rate
        average = smoothing * average + (1 - smoothing) * step(model, optimizer, batch)
        found.append(average / (1 - smoothing**number))
    return found


def trained(folder: Path, finder: LearningRateFinder, *plugins: Plugin, **options: Any) -> nn.Linear:
    model = linear()
    train(folder, finder, *plugins, trainer=make_trainer(model), train=batches(), **{**OPTIONS, **options})
    return model


def recorded(folder: Path, name: str) -> list[float]:
    return [event.value for event in read_events(folder) if event.name == f"learning_rate_finder/{name}"]


def test_the_curve_is_that_of_plain_pytorch(tmp_path: Path) -> None:
    """The rate rises exponentially, the training stops, and the model is as before."""
    model = trained(tmp_path, LearningRateFinder(0.01, 1.0, steps=5))
    rates = [0.01 * 100 ** (number / 4) for number in range(5)]
    assert recorded(tmp_path, "rate") == pytest.approx(rates)
    losses = curve(rates)
    assert recorded(tmp_path, "loss") == pytest.approx(losses)
    falls = [after - before for before, after in zip(losses, losses[2:], strict=False)]
    assert recorded(tmp_path, "suggestion") == [pytest.approx(rates[falls.index(min(falls)) + 1])]
    assert torch.equal(model.weight, linear().weight)
    reason = next(event.value["reason"] for event in read_events(tmp_path) if event.name == "run/finished")
    assert reason.startswith("the learning rate test is over: the suggestion is 0.")


@pytest.mark.parametrize("offset", [-0.5, -20.0, 20.0])
def test_a_loss_may_be_negative(tmp_path: Path, offset: float) -> None:
    """The test goes on while the loss falls, whatever its sign, and ends early when it diverges."""

    class Shifted(nn.CrossEntropyLoss):
        def forward(self, *arguments: Any) -> Any:
            return super().forward(*arguments) + offset

    def losses(name: str, *arguments: Any, **options: Any) -> list[float]:
        finder, trainer = LearningRateFinder(*arguments, **options), make_trainer(loss=Shifted())
        train(tmp_path / name, finder, trainer=trainer, train=batches(), max_epochs=2, max_grad_norm=None)
        return recorded(tmp_path / name, "loss")

    assert len(losses("falls", 0.001, 0.1, steps=12)) == 12
    if offset < 0:
        assert 1 < len(losses("diverges", 1.0, 1e6, steps=12, smoothing=0.0)) < 12


@pytest.mark.parametrize("interrupted", [None, 2, 7])
def test_the_training_may_continue_with_the_state_from_before(tmp_path: Path, interrupted: int | None) -> None:
    """It trains with the given rate on the batches that follow, also if it is resumed within the test or later."""
    expected = linear()
    optimizer = torch.optim.SGD(expected.parameters(), lr=0.1, momentum=0.9)
    for batch in [*list(batches())[5:], *batches()]:
        step(expected, optimizer, batch)
    finder = LearningRateFinder(0.01, 1.0, steps=5, then="continue")
    if interrupted:
        trained(tmp_path, finder, Interrupt(interrupted))
        finder = LearningRateFinder(0.01, 1.0, steps=5, then="continue")
    model = trained(tmp_path, finder, resume=bool(interrupted))
    assert torch.equal(model.weight, expected.weight)
    assert len(recorded(tmp_path, "loss")) == 5


def test_a_loss_that_diverges_ends_the_test(tmp_path: Path) -> None:
    """So does one that is not finite; if it has never fallen, there is no suggestion."""
    trained(tmp_path / "large", LearningRateFinder(1e3, 1e6, steps=10, smoothing=0.0))
    assert 0 < len(recorded(tmp_path / "large", "loss")) < 10
    assert recorded(tmp_path / "large", "suggestion") == []
    trained(tmp_path / "infinite", LearningRateFinder(1e37, 1e38, steps=10))
    assert len(recorded(tmp_path / "infinite", "loss")) < 10


def test_a_training_that_is_too_short_ends_the_test(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The model is as before, and the log says how many steps there were."""
    model = trained(tmp_path, LearningRateFinder(steps=50), max_epochs=1)
    assert torch.equal(model.weight, linear().weight)
    assert "the learning rate test ended after 6 of 50 steps" in caplog.text


def test_groups_keep_their_ratio(tmp_path: Path) -> None:
    """The rate is that of the first group."""
    model, ratios = linear(), []
    groups = [{"params": [model.weight], "lr": 0.1}, {"params": [model.bias], "lr": 0.4}]
    trainer = make_trainer(model)
    trainer.on("before_training_optimizer_step")(
        lambda _: ratios.append([group["lr"] for group in trainer.run.optimizer.param_groups])
    )
    finder = LearningRateFinder(0.01, 1.0, steps=3)
    train(tmp_path, finder, trainer=trainer, optimizer=torch.optim.SGD(groups), train=batches())
    assert ratios == [pytest.approx([rate, 4 * rate]) for rate in (0.01, 0.1, 1.0)]


@pytest.mark.parametrize(
    "arguments",
    [
        {"minimum": 0}, {"minimum": 2.0, "maximum": 1.0}, {"maximum": math.inf}, {"steps": 2}, {"then": "pause"},
        {"smoothing": 1}, {"divergence": 1},
    ],
)  # fmt: skip
def test_invalid_arguments_are_refused(arguments: dict[str, Any]) -> None:
    """The error names the plugin."""
    with pytest.raises(OptionError, match="LearningRateFinder: "):
        LearningRateFinder(**arguments)
