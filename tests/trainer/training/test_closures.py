"""Optimizers that evaluate the loss several times in a step: compared with a loop in plain PyTorch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from support.resumed_trainings import Interrupt
from support.run_reader import read_events
from support.tiny_training import make_trainer, points, train
from torch import nn
from torch.nn import functional
from torch.optim import LBFGS, Optimizer
from torch.utils.data import DataLoader

from trainwire import Plugin
from trainwire_protocol.errors import OptionError, UsageError

SEARCH: dict[str, Any] = {"line_search_fn": "strong_wolfe", "max_iter": 4, "history_size": 3}
OPTIONS: dict[str, Any] = {"optimizer": LBFGS, "learning_rate": 0.5, "attach_default_scheduler": False}


class Noisy(nn.Sequential):
    """Has dropout, so that each evaluation of the loss draws random numbers."""

    def __init__(self) -> None:
        torch.manual_seed(3)
        super().__init__(nn.Linear(4, 6), nn.Tanh(), nn.Dropout(0.1), nn.Linear(6, 2))


def batches() -> DataLoader[Any]:
    return DataLoader(points(96), 48)


def by_hand(model: nn.Module, arguments: dict[str, Any]) -> list[float]:
    """Train in plain PyTorch for three epochs, and return the loss at the start of each step."""
    optimizer, found = LBFGS(model.parameters(), lr=0.5, **arguments), []
    torch.manual_seed(1)
    for _ in range(3):
        for inputs, labels in batches():

            def closure(inputs: torch.Tensor = inputs, labels: torch.Tensor = labels) -> torch.Tensor:
                optimizer.zero_grad()
                loss = functional.cross_entropy(model(inputs), labels)
                loss.backward()  # type: ignore[no-untyped-call]  # torch's own
                return loss

            found.append(torch.as_tensor(optimizer.step(closure)).item())
    return found


def trained(folder: Path, *plugins: Plugin, model: nn.Module | None = None, **options: Any) -> nn.Module:
    model = model or Noisy()
    settings = {**OPTIONS, "train": batches(), "max_epochs": 3, **options}
    train(folder, *plugins, trainer=make_trainer(model), **settings)
    return model


def assert_equal(model: nn.Module, expected: nn.Module) -> None:
    for name, parameter in expected.named_parameters():
        assert torch.equal(model.get_parameter(name), parameter), name


@pytest.mark.parametrize("arguments", [{}, {"max_iter": 1}, SEARCH])
def test_lbfgs_equals_a_loop_in_plain_pytorch(tmp_path: Path, arguments: dict[str, Any]) -> None:
    """The weights are bitwise equal, also with random numbers in each evaluation; gradients are not clipped."""
    model, expected = Noisy(), Noisy()
    trained(tmp_path, model=model, optimizer_arguments=arguments, max_grad_norm=0.01)
    found = by_hand(expected, arguments)
    assert_equal(model, expected)
    recorded = [event.value for event in read_events(tmp_path) if event.name == "train/batch_loss"]
    assert recorded == found


def test_an_optimizer_of_the_program_is_given_a_closure(tmp_path: Path) -> None:
    """An optimizer object trains in the same way as its class."""
    model, expected = Noisy(), Noisy()
    trained(tmp_path, model=model, optimizer=LBFGS(model.parameters(), lr=0.5, **SEARCH))
    by_hand(expected, SEARCH)
    assert_equal(model, expected)


def test_chunks_give_the_same_training(tmp_path: Path) -> None:
    """Each evaluation accumulates the gradients of all chunks, and of all batches of an update."""
    models = [nn.Linear(4, 2) for _ in range(3)]
    for model in models[1:]:
        model.load_state_dict(models[0].state_dict())
    halves = DataLoader(points(96), 24)
    trained(
        tmp_path / "halves", model=models[2], train=halves, accumulate_batches=2, optimizer_arguments={"max_iter": 4}
    )
    for size, model in zip((None, 7), models, strict=False):
        trained(tmp_path / str(size), model=model, mini_batch_chunk_size=size, optimizer_arguments={"max_iter": 4})
    torch.testing.assert_close(models[0].weight, models[2].weight, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(models[0].weight, models[1].weight, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("step", [1, 3, 4])
def test_a_resumed_training_ends_with_the_same_weights(tmp_path: Path, step: int) -> None:
    """The history of the search is part of the checkpoint."""
    expected = trained(tmp_path / "whole", optimizer_arguments=SEARCH)
    parts = [Interrupt(step)], []
    for plugins in parts:
        model = trained(tmp_path / "parts", *plugins, optimizer_arguments=SEARCH, resume=True)
    assert_equal(model, expected)


def test_a_skipped_step_evaluates_the_loss_once(tmp_path: Path) -> None:
    """`skip_step` leaves the weights unchanged."""
    model = Noisy()
    trainer = make_trainer(model)
    trainer.on("before_training_optimizer_step")(lambda _: trainer.control.skip_step())
    assert train(tmp_path, trainer=trainer, train=batches(), **OPTIONS).steps == 4
    assert_equal(model, Noisy())


def test_half_precision_needs_no_scaler(tmp_path: Path) -> None:
    """bf16 trains; fp16, whose gradients are scaled, is refused before the first batch."""
    model = trained(tmp_path / "bf16", use_amp="bf16")
    assert not torch.equal(model[3].weight, Noisy()[3].weight)  # type: ignore[index,arg-type]  # a layer's tensor
    with pytest.raises(OptionError, match="use_amp is 'fp16', which scales gradients, but LBFGS evaluates the loss"):
        trained(tmp_path / "fp16", use_amp="fp16")


def test_parameter_groups_of_lbfgs_are_refused(tmp_path: Path) -> None:
    """A learning rate for the decoder needs a group of its own."""
    model = nn.Sequential()
    model.add_module("body", nn.Linear(4, 4))
    model.add_module("head", nn.Linear(4, 2))
    with pytest.raises(OptionError, match=r"LBFGS cannot be created .* doesn't support per-parameter options"):
        trained(tmp_path, model=model, decoder_learning_rate=0.1)


def test_parameters_of_lbfgs_cannot_be_unfrozen(tmp_path: Path) -> None:
    """Its history has the size of the parameters that it began with."""
    model = Noisy()
    model[0].requires_grad_(False)
    trainer = make_trainer(model)
    trainer.on("before_training_epoch", once=2)(lambda _: model[0].requires_grad_(True))
    with pytest.raises(UsageError, match=r"0\.weight was unfrozen or added during the training, which LBFGS"):
        train(tmp_path, trainer=trainer, train=batches(), **OPTIONS)


def test_another_optimizer_with_a_closure_is_recognized(tmp_path: Path) -> None:
    """One that requires a closure gets one; one for which it is optional does not."""

    class TwoSteps(Optimizer):
        """Makes a step of gradient descent, twice."""

        def __init__(self, params: Any, lr: float) -> None:
            super().__init__(params, {"lr": lr})

        def step(self, closure: Any) -> float:  # type: ignore[override]  # it requires a closure
            for _ in range(2):
                with torch.enable_grad():
                    loss = closure()
                with torch.no_grad():
                    for parameter in self.param_groups[0]["params"]:
                        parameter -= self.param_groups[0]["lr"] * parameter.grad
            return float(loss)

    model, expected = nn.Linear(4, 2), nn.Linear(4, 2)
    expected.load_state_dict(model.state_dict())
    train(tmp_path, trainer=make_trainer(model), train=batches(), max_epochs=1, optimizer=TwoSteps, learning_rate=0.1)
    for inputs, labels in batches():
        for _ in range(2):
            gradients = torch.autograd.grad(
                functional.cross_entropy(expected(inputs), labels), list(expected.parameters())
            )
            with torch.no_grad():
                for parameter, gradient in zip(expected.parameters(), gradients, strict=True):
                    parameter -= 0.1 * gradient
    torch.testing.assert_close(model.weight, expected.weight)
