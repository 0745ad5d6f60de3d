"""Several optimizers, each with a loss of its own: compared with a loop in plain PyTorch."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from support.resumed_trainings import Interrupt
from support.run_reader import read_events
from support.tiny_training import Recorder, linear, points, train
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import SGD, Adam, AdamW, Optimizer
from torch.optim.lr_scheduler import ExponentialLR, LRScheduler, StepLR
from torch.utils.data import DataLoader, TensorDataset

from trainwire import Forward, ModelTrainer, Plugin, hook
from trainwire.plugins.anomaly_guard import AnomalyGuard
from trainwire.plugins.linear_schedule import LinearSchedule
from trainwire.plugins.swa import SWA
from trainwire.plugins.torch_scheduler import TorchScheduler
from trainwire.training.hooks.payloads import BeforeTrainingOptimizerStep
from trainwire_protocol.errors import OptionError, UsageError

OPTIMIZERS: dict[str, Any] = {"critic": (SGD, {"lr": 0.05, "momentum": 0.9}), "generator": (Adam, {"lr": 0.01})}


class Gan(nn.Module):
    """A generator of points, and a critic that tells them from real ones."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(5)
        self.generator = nn.Sequential(nn.Linear(2, 8), nn.ReLU(), nn.Linear(8, 2))
        self.critic = nn.Sequential(nn.Linear(2, 8), nn.LeakyReLU(), nn.Linear(8, 1))


def verdict(model: Gan, points: Tensor, *, real: bool) -> Tensor:
    scores: Tensor = model.critic(points)
    return functional.binary_cross_entropy_with_logits(scores, torch.full_like(scores, float(real)))


def losses(model: Gan, optimizer: str, real: Tensor) -> Tensor:
    """Return the loss of one of the two, with new noise."""
    fake = model.generator(torch.randn(len(real), 2))
    if optimizer == "generator":
        return verdict(model, fake, real=True)
    return verdict(model, real, real=True) + verdict(model, fake.detach(), real=False)


class GanTrainer(ModelTrainer):
    """Updates the generator in every second step only."""

    def forward(self, batch: Any) -> Forward:
        return Forward(losses(self.model, "generator", batch[0]))  # type: ignore[arg-type]  # it is a Gan

    def forward_for(self, optimizer: str, batch: Any) -> Forward | None:
        if optimizer == "generator" and self.run.state.step % 2:
            return None
        return Forward(losses(self.model, optimizer, batch[0]))  # type: ignore[arg-type]  # it is a Gan


def data() -> DataLoader[Any]:
    points = torch.randn(64, 2, generator=torch.Generator().manual_seed(2)) + 3
    return DataLoader(TensorDataset(points), 16)


def made(model: Gan) -> dict[str, Optimizer]:
    return {
        "critic": SGD(model.critic.parameters(), lr=0.05, momentum=0.9),
        "generator": Adam(model.generator.parameters(), lr=0.01),
    }


def by_hand(model: Gan, *schedules: Callable[[Optimizer], LRScheduler]) -> list[float]:
    """Train as `GanTrainer` does, with a schedule for each optimizer, and return the critic's loss in each step."""
    optimizers, found = made(model), []
    stepped = [make(optimizer) for make, optimizer in zip(schedules, optimizers.values(), strict=False)]
    torch.manual_seed(1)
    for _ in range(2):
        for number, (real,) in enumerate(data()):
            for name in ["critic"] if number % 2 else ["critic", "generator"]:
                optimizers[name].zero_grad()
                loss = losses(model, name, real)
                loss.backward()  # type: ignore[no-untyped-call]  # torch's own
                nn.utils.clip_grad_norm_(model.get_submodule(name).parameters(), 5.0)
                optimizers[name].step()
                found += [loss.item()] if name == "critic" else []
            for schedule in stepped:
                schedule.step()
    return found


def trained(folder: Path, *plugins: Plugin, model: Gan | None = None, **options: Any) -> Gan:
    """Train in the folder, starting with the random state of `by_hand`."""
    model = model or Gan()
    defaults = {"train": data(), "optimizer": OPTIMIZERS, "attach_default_scheduler": False}
    train(folder, *plugins, trainer=GanTrainer(model), **{**defaults, **options})
    return model


def assert_equal(model: nn.Module, expected: nn.Module) -> None:
    for name, parameter in expected.named_parameters():
        assert torch.equal(model.get_parameter(name), parameter), name


@pytest.mark.parametrize("are_made", [False, True])
def test_two_optimizers_equal_a_loop_in_plain_pytorch(tmp_path: Path, *, are_made: bool) -> None:
    """They are given as classes or as optimizers; the weights are bitwise equal, and the losses those of each."""
    model, expected = Gan(), Gan()
    trained(tmp_path, model=model, optimizer=made(model) if are_made else OPTIMIZERS)
    found = by_hand(expected)
    assert_equal(model, expected)
    events = [event for event in read_events(tmp_path) if event.type == "scalar"]
    critic = [event.value for event in events if event.name == "train/batch_loss/critic"]
    assert critic == found
    assert [event.step for event in events if event.name == "train/batch_loss/generator"] == [1, 3, 5, 7]
    rates = {event.name: event.value for event in events if "learning_rate" in event.name or "momentum" in event.name}
    assert rates == {
        "learning_rate/critic": 0.05, "learning_rate/generator": 0.01,
        "optimizer/momentum/critic": 0.9, "optimizer/momentum/generator": 0.9,
    }  # fmt: skip


def test_losses_and_norms_are_recorded_for_each_and_in_total(tmp_path: Path) -> None:
    """The total loss is the sum, also in the mean of the epoch; the total norm is that of all gradients."""
    trained(tmp_path, max_epochs=1)
    values = {
        (event.name, event.step): event.value for event in read_events(tmp_path) if event.name.startswith("train/")
    }
    one, other = (values[f"train/batch_loss/{name}", 3] for name in OPTIMIZERS)
    assert values["train/batch_loss", 3] == pytest.approx(one + other)
    one, other = (values[f"train/gradient_norm/{name}", 3] for name in OPTIMIZERS)
    assert values["train/gradient_norm", 3] == pytest.approx((one**2 + other**2) ** 0.5)
    one, other = (values[f"train/loss/{name}", 4] for name in OPTIMIZERS)
    assert one == pytest.approx(sum(values["train/batch_loss/critic", step] for step in (1, 2, 3, 4)) / 4)
    assert other == pytest.approx(sum(values["train/batch_loss/generator", step] for step in (1, 3)) / 2)
    assert values["train/loss", 4] == pytest.approx(one + other)


@pytest.mark.parametrize("step", [3, 4, 6])
def test_a_resumed_training_ends_with_the_same_weights(tmp_path: Path, step: int) -> None:
    """The states of both optimizers, of their schedules and of the guard are saved and restored."""

    def plugins() -> list[Plugin]:
        return [
            TorchScheduler(lambda optimizer: StepLR(optimizer, 1, 0.5), "batch", "critic"),
            TorchScheduler(lambda optimizer: ExponentialLR(optimizer, 0.9), "batch", "generator"),
            AnomalyGuard(window=3),
        ]

    expected = trained(tmp_path / "whole", *plugins())
    model = trained(tmp_path / "parts", *plugins(), Interrupt(step), resume=True)
    with pytest.raises(AssertionError):
        assert_equal(model, expected)
    assert_equal(trained(tmp_path / "parts", *plugins(), resume=True), expected)


def test_the_schedule_of_each_optimizer_equals_plain_pytorch(tmp_path: Path) -> None:
    """Both are stepped after each step, and their rates are recorded under the names of the optimizers."""
    schedules = (partial(StepLR, step_size=2, gamma=0.5), partial(ExponentialLR, gamma=0.9))
    expected = Gan()
    by_hand(expected, *schedules)
    model = trained(
        tmp_path, *(TorchScheduler(make, "batch", name) for make, name in zip(schedules, OPTIMIZERS, strict=True))
    )
    assert_equal(model, expected)
    rates = [event.value for event in read_events(tmp_path) if event.name == "learning_rate/generator"]
    assert rates[:4] == [pytest.approx(0.01 * 0.9**step) for step in (1, 2, 3, 4)]


def test_the_default_schedules_apply_to_all_optimizers(tmp_path: Path) -> None:
    """Each rate is multiplied by the same factor, and the changes are published for each optimizer."""
    trained(tmp_path / "annealed", dev=data(), max_epochs=30, attach_default_scheduler=True)
    changes = [event.value for event in read_events(tmp_path / "annealed") if event.name == "learning_rate/changed"]
    assert [(change["optimizer"], change["to"]) for change in changes[:2]] == [("critic", 0.025), ("generator", 0.005)]
    trained(tmp_path / "linear", LinearSchedule(0.25), max_epochs=1)
    events = read_events(tmp_path / "linear")
    for name, peak in (("critic", 0.05), ("generator", 0.01)):
        rates = [event.value for event in events if event.name == f"learning_rate/{name}"]
        assert rates[:4] == [pytest.approx(peak * factor) for factor in (1, 2 / 3, 1 / 3, 0)]


def test_an_update_of_one_optimizer_can_be_skipped(tmp_path: Path) -> None:
    """`skip_step` leaves the weights of that optimizer unchanged, also with the gradient scaler."""

    class Skip(Plugin):
        @hook
        def before_training_optimizer_step(self, step: BeforeTrainingOptimizerStep) -> None:
            if step.optimizer == "critic":
                self.run.control.skip_step()

    for use_amp in (False, "fp16"):
        model = trained(tmp_path / str(use_amp), Skip(), use_amp=use_amp)
        assert_equal(model.critic, Gan().critic)
        assert not torch.equal(model.generator[0].weight, Gan().generator[0].weight)  # type: ignore[arg-type]  # a tensor


@pytest.mark.parametrize("use_amp", ["bf16", "fp16"])
def test_mixed_precision_trains_both(tmp_path: Path, use_amp: Any) -> None:
    """One scaler serves both; its scale is recorded once a step."""
    model = trained(tmp_path, use_amp=use_amp)
    for name in ("critic", "generator"):
        assert not torch.equal(model.get_submodule(name)[0].weight, Gan().get_submodule(name)[0].weight)  # type: ignore[index]  # layers
    scales = [event.step for event in read_events(tmp_path) if event.name == "amp/scale"]
    assert scales == (list(range(1, 9)) if use_amp == "fp16" else [])


def test_chunks_give_the_same_gradients(tmp_path: Path) -> None:
    """The gradients of each optimizer are accumulated by themselves."""

    class Fixed(GanTrainer):
        def forward_for(self, optimizer: str, batch: Any) -> Forward | None:
            noise = batch[0].flip(1)  # no random numbers, which would differ between chunks
            fake = self.model.generator(noise)  # type: ignore[operator]  # a module
            if optimizer == "generator":
                return Forward(verdict(self.model, fake, real=True))  # type: ignore[arg-type]  # it is a Gan
            real, fake = (verdict(self.model, each, real=each is batch[0]) for each in (batch[0], fake.detach()))  # type: ignore[arg-type]
            return Forward(real + fake)

    models = [Gan(), Gan()]
    for size, model in zip((None, 5), models, strict=True):
        train(
            tmp_path / str(size), trainer=Fixed(model), train=data(), optimizer=OPTIMIZERS, mini_batch_chunk_size=size,
            attach_default_scheduler=False,
        )  # fmt: skip
    for name, parameter in models[0].named_parameters():
        torch.testing.assert_close(models[1].get_parameter(name), parameter)


def test_payloads_name_the_optimizer(tmp_path: Path) -> None:
    """The hook before an update is called for each optimizer, the one after the batch once."""
    recorder = Recorder()
    trained(tmp_path, recorder, max_epochs=1)
    calls = [(step.step, step.optimizer) for step in recorder.of(BeforeTrainingOptimizerStep)]
    assert calls == [(1, "critic"), (1, "generator"), (2, "critic"), (3, "critic"), (3, "generator"), (4, "critic")]
    assert recorder.names.count("after_training_batch") == 4


def test_the_state_of_all_optimizers_is_saved_with_the_model(tmp_path: Path) -> None:
    """The file has one state for each name."""
    trained(tmp_path, save_optimizer_state=True, max_epochs=1)
    states = torch.load(tmp_path / "final-model.optimizer.pt", weights_only=True)
    assert list(states) == ["critic", "generator"]
    assert states["generator"]["param_groups"][0]["lr"] == 0.01


def test_parameters_join_the_optimizer_of_their_part(tmp_path: Path) -> None:
    """A layer that is unfrozen during the training is trained by the optimizer that has its part of the model."""

    class Unfreeze(Plugin):
        @hook("before_training_epoch", once=2)
        def unfreeze(self, epoch: Any) -> None:
            model: Any = self.run.model
            model.generator[0].requires_grad_(True)
            self.optimizers = self.run.optimizers

    model, plugin = Gan(), Unfreeze()
    model.generator[0].requires_grad_(False)
    trained(tmp_path, plugin, model=model)
    assert len(plugin.optimizers["generator"].param_groups[0]["params"]) == 4
    assert not torch.equal(model.generator[0].weight, Gan().generator[0].weight)  # type: ignore[arg-type]  # a tensor


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"optimizer": {}}, "a mapping of names to optimizers"),
        ({"optimizer": {"": Adam}}, "a mapping of names to optimizers"),
        ({"optimizer": {"critic": (Adam, 1)}}, "a mapping of names to optimizers"),
        ({"optimizer": {"critic": Adam, "decoder": Adam}}, "'decoder' has no parameters: Gan has no part of that name"),
        ({"optimizer": {"critic": Adam, "critic.0": Adam}}, r"critic\.0\.weight belongs to two optimizers"),
        ({"optimizer": {"critic": (Adam, {"beta": 1})}}, "Adam cannot be created with .*beta"),
        ({"optimizer": {"critic": SGD(linear().parameters())}}, "the optimizer 'critic' has no parameter of the model"),
        ({"optimizer_arguments": {"momentum": 0.9}}, "optimizer_arguments apply to an optimizer class only"),
        ({"decoder_learning_rate": 0.1}, "decoder_learning_rate applies to one optimizer only"),
        ({"ddp_arguments": {"static_graph": True}}, "static_graph=True is for one optimizer"),
        ({"plugins": [TorchScheduler(lambda made: StepLR(made, 1))]}, "optimizer is None, but there is more than one"),
        ({"plugins": [TorchScheduler(lambda made: StepLR(made, 1), optimizer="x")]}, "there is no optimizer 'x'"),
        ({"plugins": [SWA(learning_rate=0.1)]}, "SWA: learning_rate applies to one optimizer"),
    ],
)
def test_invalid_optimizers_are_refused(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    """The error is raised before the first batch."""
    plugins = options.pop("plugins", [])
    with pytest.raises(OptionError, match=message):
        trained(tmp_path, *plugins, **options)


def test_two_schedules_of_one_optimizer_are_refused(tmp_path: Path) -> None:
    """A schedule of all optimizers excludes others too."""
    schedules = [TorchScheduler(lambda made: StepLR(made, 1), optimizer="critic") for _ in range(2)]
    for pair in (schedules, [schedules[0], LinearSchedule()]):
        with pytest.raises(OptionError, match="attach only one of them, or one for each optimizer"):
            trained(tmp_path, *pair)


def test_several_optimizers_need_a_loss_for_each(tmp_path: Path) -> None:
    """Without `forward_for`, it is unknown which loss is whose; and a dev split needs `forward`."""

    class OnlyFor(ModelTrainer):
        forward_for = GanTrainer.forward_for

    trainer = ModelTrainer(Gan(), loss=nn.MSELoss())
    with pytest.raises(OptionError, match="there are several optimizers, 'critic', 'generator': override"):
        train(tmp_path, trainer=trainer, train=data(), optimizer=OPTIMIZERS)
    with pytest.raises(OptionError, match="dev cannot be evaluated, as Gan has no forward: override"):
        train(tmp_path, trainer=OnlyFor(Gan()), train=data(), dev=data(), optimizer=OPTIMIZERS)
    assert train(tmp_path, trainer=OnlyFor(Gan()), train=data(), optimizer=OPTIMIZERS).steps == 8


def test_a_step_without_an_update_is_an_error(tmp_path: Path) -> None:
    """`run.optimizer` is one too: it names those that there are."""

    class Never(GanTrainer):
        def forward_for(self, optimizer: str, batch: Any) -> Forward | None:
            return None

    with pytest.raises(UsageError, match="forward_for returned None for every optimizer"):
        train(tmp_path / "none", trainer=Never(Gan()), train=data(), optimizer=OPTIMIZERS)
    trainer = GanTrainer(Gan())
    trainer.on("after_setup")(lambda _: trainer.run.optimizer)
    with pytest.raises(UsageError, match=r"more than one optimizer; `run\.optimizers` has 'critic', 'generator'"):
        train(tmp_path / "one", trainer=trainer, train=data(), optimizer=OPTIMIZERS)


def test_training_may_have_another_loss_than_evaluation(tmp_path: Path) -> None:
    """With one optimizer, `forward_for` is called in training, and `forward` in evaluation."""

    class Smoothed(ModelTrainer):
        def forward_for(self, optimizer: str, batch: Any) -> Forward | None:
            inputs, labels = batch
            return Forward(functional.cross_entropy(self.model(inputs), labels, label_smoothing=0.1))

    model, expected = linear(), linear()
    trainer = Smoothed(model, loss=nn.CrossEntropyLoss())
    result = train(tmp_path, trainer=trainer, optimizer=AdamW, shuffle=False, max_epochs=1)
    optimizer = AdamW(expected.parameters(), lr=0.1)
    for inputs, labels in DataLoader(points(48), 16):
        optimizer.zero_grad()
        functional.cross_entropy(expected(inputs), labels, label_smoothing=0.1).backward()
        nn.utils.clip_grad_norm_(expected.parameters(), 5.0)
        optimizer.step()
    assert_equal(model, expected)
    inputs, labels = points(16, 1).tensors
    assert result.history[0]["dev/loss"] == pytest.approx(functional.cross_entropy(expected(inputs), labels).item())
