"""Groups of parameters with settings of their own: compared with those of plain PyTorch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from support.resumed_trainings import Interrupt
from support.tiny_training import linear, make_trainer, points, train
from torch import nn
from torch.nn import functional
from torch.optim import SGD, AdamW, Optimizer
from torch.utils.data import DataLoader

from trainwire import Plugin
from trainwire.training.model.optimizers import make_optimizers
from trainwire.training.model.parameters import TrainedModules
from trainwire.training.options.options import TrainingOptions
from trainwire_protocol.errors import OptionError

GROUPS: list[dict[str, Any]] = [{"match": "body.*", "lr": 0.02}, {"match": nn.LayerNorm, "lr": 0.05, "eps": 1e-6}]
OPTIONS: dict[str, Any] = {
    "optimizer": AdamW, "learning_rate": 0.1, "optimizer_arguments": {"weight_decay": 0.5},
    "attach_default_scheduler": False, "parameter_groups": GROUPS, "decay_biases_and_norms": False,
}  # fmt: skip


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.body, self.norm, self.head = nn.Linear(4, 6), nn.LayerNorm(6), nn.Linear(6, 2)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        output: torch.Tensor = self.head(self.norm(self.body(inputs)).tanh())
        return output


def batches() -> DataLoader[Any]:
    return DataLoader(points(48), 16)


def groups_of(model: nn.Module, optimizer: Optimizer) -> dict[str, tuple[float, float]]:
    """Return the learning rate and the weight decay of each parameter."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    groups = optimizer.param_groups
    return {names[id(each)]: (group["lr"], group["weight_decay"]) for group in groups for each in group["params"]}


def made(model: nn.Module, **options: Any) -> Optimizer:
    return make_optimizers(TrainedModules(model), TrainingOptions(**{**OPTIONS, **options}))[""]


def by_hand(model: Network) -> None:
    """Train for two epochs in plain PyTorch."""
    groups = [
        {"params": [model.head.weight]},
        {"params": [model.head.bias], "weight_decay": 0.0},
        {"params": [model.body.weight], "lr": 0.02},
        {"params": [model.body.bias], "lr": 0.02, "weight_decay": 0.0},
        {"params": list(model.norm.parameters()), "lr": 0.05, "eps": 1e-6, "weight_decay": 0.0},
    ]
    optimizer = AdamW(groups, lr=0.1, weight_decay=0.5)
    for _ in range(2):
        for inputs, labels in batches():
            optimizer.zero_grad()
            functional.cross_entropy(model(inputs), labels).backward()
            nn.utils.clip_grad_norm_(model.parameters(), 5.0)
            optimizer.step()


def trained(folder: Path, *plugins: Plugin, model: nn.Module | None = None, **options: Any) -> nn.Module:
    model = model or Network()
    train(folder, *plugins, trainer=make_trainer(model), **{**OPTIONS, "train": batches(), **options})
    return model


def assert_equal(model: nn.Module, expected: nn.Module) -> None:
    for name, parameter in expected.named_parameters():
        assert torch.equal(model.get_parameter(name), parameter), name


@pytest.mark.parametrize("step", [None, 4])
def test_groups_equal_those_of_plain_pytorch(tmp_path: Path, step: int | None) -> None:
    """The weights are bitwise equal, also in a training that is resumed."""
    expected = Network()
    by_hand(expected)
    if step:
        trained(tmp_path, Interrupt(step))
    assert_equal(trained(tmp_path, resume=bool(step)), expected)


def test_all_settings_that_apply_to_a_parameter_count() -> None:
    """They include the rate of the decoder; of two with the same setting, the later one."""
    model = Network()
    assert groups_of(model, made(model, decoder_learning_rate=0.3)) == {
        "head.weight": (0.3, 0.5), "head.bias": (0.3, 0.0), "body.weight": (0.02, 0.5), "body.bias": (0.02, 0.0),
        "norm.weight": (0.05, 0.0), "norm.bias": (0.05, 0.0),
    }  # fmt: skip
    groups = [{"match": "*", "lr": 0.7}, {"match": ["*.bias", nn.LayerNorm], "lr": 0.9}]
    rates = groups_of(model, made(model, parameter_groups=groups, decay_biases_and_norms=True))
    assert rates == {
        name: (0.9 if "norm" in name or "bias" in name else 0.7, 0.5) for name, _ in model.named_parameters()
    }


def test_norms_of_any_class_and_shape_are_not_decayed() -> None:
    """A norm is recognized by the name of its class, so that those of other packages are too."""

    class RootMeanSquareNorm(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.ones(2, 2))

    model = nn.Sequential(nn.Conv1d(2, 2, 1), nn.BatchNorm1d(2), nn.LayerNorm([2, 2]), RootMeanSquareNorm())
    decays = {name: decay for name, (_, decay) in groups_of(model, made(model, parameter_groups=())).items()}
    assert {name for name, decay in decays.items() if decay} == {"0.weight"}


def test_a_shared_parameter_matches_by_each_of_its_modules() -> None:
    """A tied weight belongs to two modules, and has one name."""
    model = nn.Sequential(nn.Embedding(3, 2), nn.Linear(2, 3, bias=False))
    model[1].weight = model[0].weight
    optimizer = made(model, parameter_groups=[{"match": nn.Linear, "lr": 0.7}], decay_biases_and_norms=True)
    assert groups_of(model, optimizer) == {"0.weight": (0.7, 0.5)}


@pytest.mark.parametrize("steps", [(), (2,), (5,)])
def test_unfrozen_parameters_join_the_group_of_their_settings(tmp_path: Path, steps: tuple[int, ...]) -> None:
    """A group that has had no parameter until then is added; a resumed training has the same groups."""
    found: dict[str, tuple[float, float]] = {}
    for step in (*steps, None):
        model = Network()
        model.norm.requires_grad_(False)
        model.body.bias.requires_grad_(False)
        trainer = make_trainer(model)

        def unfreeze(epoch: Any, model: nn.Module = model) -> None:
            if epoch.epoch == 2:
                model.requires_grad_(True)

        trainer.on("before_training_epoch")(unfreeze)
        trainer.on("after_training_batch")(
            lambda _, model=model, trainer=trainer: found.update(groups_of(model, trainer.run.optimizer))
        )
        plugins = [Interrupt(step)] if step else []
        train(tmp_path, *plugins, trainer=trainer, train=batches(), resume=True, **OPTIONS)
    assert found == groups_of(model, made(model))


def test_several_optimizers_group_their_own_parameters() -> None:
    """The same settings apply in each optimizer that has matching parameters."""
    model = Network()
    optimizer = {"body": (SGD, {"weight_decay": 0.5}), "head": AdamW}
    options = TrainingOptions(
        optimizer=optimizer, parameter_groups=[{"match": "*.bias", "lr": 0.7}], decay_biases_and_norms=False
    )
    optimizers = make_optimizers(TrainedModules(model), options)
    assert groups_of(model, optimizers["body"]) == {"body.weight": (0.1, 0.5), "body.bias": (0.7, 0.0)}
    assert groups_of(model, optimizers["head"]) == {"head.weight": (0.1, 0.01), "head.bias": (0.7, 0.0)}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"parameter_groups": {"match": "*"}}, "parameter_groups is .* it must be a list of mappings"),
        ({"parameter_groups": [{"match": "*"}]}, "it must be a list of mappings"),
        ({"parameter_groups": [{"match": 3, "lr": 0.1}]}, "it must be a list of mappings"),
        ({"parameter_groups": [{"match": "*", "lr": -1}]}, "it must be a list of mappings"),
        ({"parameter_groups": [{"match": int, "lr": 0.1}]}, "it must be a list of mappings"),
        ({"parameter_groups": [{"match": "*.gamma", "lr": 1}]}, r"match '\*\.gamma', but it applies to no parameter"),
        ({"parameter_groups": [{"match": nn.Conv1d, "lr": 1}]}, "the match Conv1d, but it applies to no parameter"),
        ({"parameter_groups": [{"match": "*", "decay": 1}]}, "the optimizer AdamW has no setting 'decay'; it has lr,"),
        ({"optimizer": SGD(linear().parameters())}, "parameter_groups needs an optimizer class"),
    ],
)
def test_invalid_groups_are_refused(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    """The error is raised before the first batch."""
    with pytest.raises(OptionError, match=message):
        trained(tmp_path, **options, **({"optimizer_arguments": {}} if "optimizer" in options else {}))


def test_other_matches_are_refused_in_a_resumed_training(tmp_path: Path) -> None:
    """Other settings are not: they count from now on."""
    trained(tmp_path, Interrupt(3))
    with pytest.raises(OptionError, match="the matches of parameter_groups is"):
        trained(tmp_path, resume=True, parameter_groups=GROUPS[:1])
    model = Network()
    trainer, rates = make_trainer(model), dict[str, tuple[float, float]]()
    trainer.on("after_training_batch")(lambda _: rates.update(groups_of(model, trainer.run.optimizer)))
    groups = [{**GROUPS[0], "lr": 0.03}, GROUPS[1]]
    train(tmp_path, trainer=trainer, train=batches(), resume=True, **{**OPTIONS, "parameter_groups": groups})
    assert rates["body.weight"] == (0.03, 0.5)
