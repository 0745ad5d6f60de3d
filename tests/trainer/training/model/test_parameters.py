"""Which parameters are trained, saved and resumed."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from support.resumed_trainings import Interrupt
from support.tiny_training import linear, make_trainer, points, train
from torch import Tensor, nn
from torch.optim import SGD, AdamW, Optimizer
from torch.utils.data import DataLoader

from trainwire import Forward, ModelTrainer, Plugin, hook
from trainwire.plugins.annealing import AnnealingOnPlateau
from trainwire.plugins.checkpoints import Checkpoints
from trainwire.plugins.ema import EMA
from trainwire.plugins.linear_schedule import LinearSchedule
from trainwire.plugins.swa import SWA
from trainwire.training.hooks.payloads import AfterTrainingBatch, BeforeTrainingBatch, BeforeTrainingEpoch
from trainwire_protocol.errors import OptionError

OPTIONS: dict[str, Any] = {"optimizer": AdamW, "learning_rate": 0.1, "attach_default_scheduler": False}


def deep() -> nn.Sequential:
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2))


class Unfreeze(Plugin):
    """Unfreezes the first layer before a batch of the second epoch, and freezes the second one in the third."""

    @hook
    def before_training_batch(self, batch: BeforeTrainingBatch) -> None:
        model = self.run.model
        if (batch.epoch, batch.number) == (2, 2):
            model.get_submodule("0").requires_grad_(True)
        if (batch.epoch, batch.number) == (3, 2):
            model.get_submodule("1").requires_grad_(False)


def batches(data: Any = None) -> DataLoader[Any]:
    return DataLoader(data or points(48), 16)


def unfrozen_by_hand() -> nn.Sequential:
    """Train as `Unfreeze` does, in plain PyTorch, with an optimizer that has all parameters."""
    model = deep()
    model[0].requires_grad_(False)
    optimizer = AdamW(model.parameters(), lr=0.1)
    for epoch in (1, 2, 3):
        for number, (inputs, labels) in enumerate(batches(), start=1):
            if (epoch, number) == (2, 2):
                model[0].requires_grad_(True)
            if (epoch, number) == (3, 2):
                model[1].requires_grad_(False)
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(inputs), labels).backward()
            nn.utils.clip_grad_norm_(model.parameters(), 5.0)
            optimizer.step()
    return model


@pytest.mark.parametrize("steps", [(), (4,), (6,), (2, 7)])
def test_gradual_unfreezing_equals_plain_pytorch(tmp_path: Path, steps: tuple[int, ...]) -> None:
    """Parameters are trained from the batch before which they are unfrozen, also in a training that is resumed."""
    for step in (*steps, None):
        model = deep()
        model[0].requires_grad_(False)
        train(
            tmp_path, Unfreeze(), *([Interrupt(step)] if step else []), trainer=make_trainer(model), train=batches(),
            max_epochs=3, resume=True, **OPTIONS,
        )  # fmt: skip
    for name, parameter in unfrozen_by_hand().named_parameters():
        torch.testing.assert_close(model.get_parameter(name), parameter)


def test_an_unfrozen_parameter_has_the_rate_of_its_part(tmp_path: Path) -> None:
    """With a rate of its own for the decoder, what is unfrozen outside it has the learning rate of the rest."""

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.decoder = nn.Linear(4, 4), nn.Linear(4, 2)

        def forward(self, inputs: Tensor) -> Tensor:
            output: Tensor = self.decoder(self.body(inputs))
            return output

    trainer = make_trainer(model := Model())
    model.body.requires_grad_(False)
    model.decoder.bias.requires_grad_(False)

    @trainer.on("before_training_epoch", once=2)
    def unfreeze(epoch: BeforeTrainingEpoch) -> None:
        model.requires_grad_(True)
        optimizers.append(trainer.run.optimizer)

    optimizers: list[Optimizer] = []
    train(tmp_path, trainer=trainer, decoder_learning_rate=0.5, attach_default_scheduler=False)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    groups = {group["lr"]: [names[id(each)] for each in group["params"]] for group in optimizers[0].param_groups}
    assert groups == {0.5: ["decoder.weight", "decoder.bias"], 0.1: ["body.weight", "body.bias"]}


def test_parameters_that_a_given_optimizer_lacks_are_named_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """They are not added to it, as its groups are the program's."""
    model = deep()
    trainer = make_trainer(model)
    train(tmp_path, trainer=trainer, optimizer=SGD(model[1].parameters(), lr=0.1), max_epochs=3)
    (warning,) = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert "in no optimizer, and so not trained: 0.weight, 0.bias;" in warning
    assert torch.equal(model[0].weight, deep()[0].weight)


def test_new_parameters_of_the_model_are_trained(tmp_path: Path) -> None:
    """A part that a hook adds to the model is trained from the next epoch on."""
    trainer = make_trainer(model := nn.Sequential(linear()))

    @trainer.on("before_training_epoch", once=2)
    def grow(epoch: BeforeTrainingEpoch) -> None:
        model.append(nn.Linear(2, 2))
        before.append(model[1].weight.detach().clone())

    before: list[Tensor] = []
    train(tmp_path, trainer=trainer, max_epochs=3, use_final_model_for_eval=True)
    assert not torch.equal(model[1].weight, before[0])


@pytest.mark.parametrize("at", [2, 3])
def test_a_group_that_a_hook_adds_follows_the_schedule(tmp_path: Path, at: int) -> None:
    """Its learning rate is its peak, from its first step on; the training can be resumed."""
    rates: dict[int, list[float]] = {}

    class Add(Plugin):
        @hook
        def before_training_epoch(self, epoch: BeforeTrainingEpoch) -> None:
            if epoch.epoch == at:
                layer = self.run.model.get_submodule("0").requires_grad_(True)
                self.run.optimizer.add_param_group({"params": list(layer.parameters()), "lr": 4.0})

        @hook
        def after_training_batch(self, batch: AfterTrainingBatch) -> None:
            rates[batch.step] = used[:]

    class Used(Plugin):
        after = ("LinearSchedule",)

        @hook
        def before_training_optimizer_step(self, step: object) -> None:
            used[:] = [group["lr"] for group in self.run.optimizer.param_groups]

    used: list[float] = []
    for step in (3 * at - 1, None):
        model = deep()
        model[0].requires_grad_(False)
        plugins = [LinearSchedule(0.25), Used(), Add(), *([Interrupt(step)] if step else [])]
        train(tmp_path, *plugins, trainer=make_trainer(model), max_epochs=4, learning_rate=2.0, resume=True)
    factors = [min((number + 1) / 4, (12 - number) / 9) for number in range(12)]
    for number, factor in enumerate(factors):
        peaks = [2.0] if number < 3 * (at - 1) else [2.0, 4.0]
        assert rates[number + 1] == pytest.approx([peak * factor for peak in peaks])


class Centres(nn.Module):
    """A loss with a trainable centre for each class."""

    def __init__(self) -> None:
        super().__init__()
        self.centres = nn.Parameter(torch.tensor([[0.5, -0.5], [-0.5, 0.5]]))

    def forward(self, output: Tensor, target: Tensor) -> Tensor:
        return nn.functional.cross_entropy(output @ self.centres, target)


def test_a_loss_with_parameters_is_trained_as_in_plain_pytorch(tmp_path: Path) -> None:
    """With the model's optimizer; it is saved beside the model, and its parameters are counted."""
    trainer = make_trainer(model := linear(), loss=(loss := Centres()))
    train(tmp_path, trainer=trainer, train=batches(), max_grad_norm=0.5, max_epochs=3, **OPTIONS)
    plain, centres = linear(), Centres()
    parameters = [*plain.parameters(), *centres.parameters()]
    optimizer = AdamW(parameters, lr=0.1)
    for _ in range(3):
        for inputs, labels in batches():
            optimizer.zero_grad()
            centres(plain(inputs), labels).backward()
            nn.utils.clip_grad_norm_(parameters, 0.5)
            optimizer.step()
    torch.testing.assert_close(model.weight, plain.weight)
    torch.testing.assert_close(loss.centres, centres.centres)
    saved = torch.load(tmp_path / "final-model.loss.pt", weights_only=True)
    assert torch.equal(saved["centres"], loss.centres)
    assert torch.load(tmp_path / "final-model.pt", weights_only=True).keys() == {"weight", "bias"}


@pytest.mark.parametrize(
    "plugins",
    [lambda: (), lambda: (EMA(0.5),), lambda: (SWA(2),), lambda: (AnnealingOnPlateau(0.5, 0, back_to_best=True),)],
)
def test_a_loss_with_parameters_is_resumed_exactly(tmp_path: Path, plugins: Callable[[], tuple[Plugin, ...]]) -> None:
    """And it is averaged, and loaded with the best model, together with the model."""

    def run(name: str, *steps: int | None) -> tuple[Tensor, float | None]:
        for step in steps:
            trainer = make_trainer(loss=(loss := Centres()))
            result = train(
                tmp_path / name, *plugins(), *([Interrupt(step)] if step else []), Checkpoints(epochs=1),
                trainer=trainer, max_epochs=4, learning_rate=2.0, optimizer=AdamW, resume=True,
            )  # fmt: skip
        return loss.centres.detach(), result.test_score

    whole, score = run("whole", None)
    parts, other = run("parts", 4, 9, None)
    assert torch.equal(parts, whole)
    assert other == score


def test_the_best_model_is_tested_with_its_loss(tmp_path: Path) -> None:
    """After the training, the loss has the weights of the best epoch, as the model does."""
    trainer = make_trainer(loss=(loss := Centres()))
    result = train(tmp_path, trainer=trainer, max_epochs=4, learning_rate=30.0, main_evaluation_metric="dev/loss")
    best = torch.load(tmp_path / "best-model.loss.pt", weights_only=True)
    assert torch.equal(loss.centres, best["centres"])
    assert result.best_epoch is not None
    final = torch.load(tmp_path / "final-model.loss.pt", weights_only=True)
    assert torch.equal(final["centres"], best["centres"]) == (result.best_epoch == 4)


def test_averages_include_the_loss(tmp_path: Path) -> None:
    """SWA sets its parameters to the mean over the epochs."""
    trainer = make_trainer(loss=(loss := Centres()))

    @trainer.on("after_training_epoch")
    def keep(epoch: object) -> None:
        seen.append(loss.centres.detach().clone())

    seen: list[Tensor] = []
    train(tmp_path, SWA(2), trainer=trainer, max_epochs=4, use_final_model_for_eval=True, learning_rate=1.0)
    torch.testing.assert_close(loss.centres.detach(), torch.stack(seen[1:]).mean(0))


def test_a_resumed_loss_must_have_the_same_shape(tmp_path: Path) -> None:
    """The error names the parameter and both shapes."""
    train(tmp_path, Checkpoints(epochs=1), trainer=make_trainer(loss=Centres()), max_epochs=1)
    other = Centres()
    other.centres = nn.Parameter(torch.zeros(2, 3))
    with pytest.raises(OptionError, match=r"the loss's centres is of shape \(2, 3\), but .* \(2, 2\)"):
        train(tmp_path, trainer=make_trainer(loss=other), resume=True)


def test_losses_without_trainable_parameters_leave_no_files(tmp_path: Path) -> None:
    """Neither weights of classes nor frozen parameters are saved, nor parameters that are the model's."""
    frozen, model = Centres().requires_grad_(False), linear()

    class Penalty(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, output: Tensor, target: Tensor) -> Tensor:
            return nn.functional.cross_entropy(output, target) + self.model.weight.square().sum()

    for number, loss in enumerate([frozen, nn.CrossEntropyLoss(weight=torch.ones(2)), Penalty()]):
        train(tmp_path / str(number), trainer=make_trainer(model, loss=loss), max_epochs=1)
    assert not list(tmp_path.rglob("*.loss.pt"))


def test_only_the_loss_may_be_trained(tmp_path: Path) -> None:
    """A frozen model with a trainable loss is trained; if both are frozen, the error says so."""
    model, loss = linear().requires_grad_(False), Centres()
    train(tmp_path / "a", trainer=make_trainer(model, loss=loss), max_epochs=1)
    assert not torch.equal(loss.centres, Centres().centres)
    with pytest.raises(OptionError, match="Linear has no trainable parameter, and neither has the loss"):
        train(tmp_path / "b", trainer=make_trainer(model, loss=loss.requires_grad_(False)))


class Projecting(ModelTrainer):
    """Uses a module that is neither in the model nor in the loss."""

    def __init__(self) -> None:
        super().__init__(linear(), loss=nn.CrossEntropyLoss())
        self.projection = nn.Linear(2, 2, bias=False)
        self.scale = nn.Parameter(torch.ones(3))

    def forward(self, batch: Any) -> Forward:
        assert self.loss is not None
        output = self.projection(self.model(batch[0])) * self.scale.mean()
        return Forward(self.loss(output, batch[1]), output, batch[1])


def test_parameters_outside_model_and_loss_are_named_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """They are found in the graph of the first loss, wherever they are."""
    train(tmp_path, trainer=Projecting(), max_epochs=2)
    (warning,) = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert "in no optimizer" in warning
    assert "one of shape (2, 2) outside model and loss" in warning
    assert "one of shape (3,) outside model and loss" in warning


def test_parameters_that_are_trained_but_not_saved_are_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """An optimizer may have parameters of neither module, which no checkpoint contains."""
    trainer = Projecting()
    optimizer = SGD([*trainer.model.parameters(), *trainer.projection.parameters(), trainer.scale], lr=0.1)
    train(tmp_path, trainer=trainer, optimizer=optimizer, max_epochs=2)
    (warning,) = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert "neither to the model nor to the loss: one of shape (2, 2), one of shape (3,);" in warning
