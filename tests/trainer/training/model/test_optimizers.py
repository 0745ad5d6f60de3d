"""Optimizers: their creation, and the metrics recorded about them."""

from __future__ import annotations

import pytest
from support.tiny_training import linear
from torch.optim import SGD, Adagrad, AdamW

from trainwire.training.model.optimizers import make_optimizers, optimizer_metrics
from trainwire.training.model.parameters import TrainedModules
from trainwire.training.options.options import TrainingOptions
from trainwire_protocol.errors import OptionError


def test_an_optimizer_class_is_called_with_the_trainable_parameters() -> None:
    """Frozen parameters are left out, and the arguments are passed on."""
    model = linear()
    model.bias.requires_grad_(False)
    options = TrainingOptions(optimizer=AdamW, learning_rate=0.5, optimizer_arguments={"weight_decay": 0.25})
    (group,) = make_optimizers(TrainedModules(model), options)[""].param_groups
    assert (group["params"], group["lr"], group["weight_decay"]) == ([model.weight], 0.5, 0.25)


@pytest.mark.parametrize("arguments", [{"momentun": 0.9}, {"momentum": -1}])
def test_invalid_optimizer_arguments_are_refused(arguments: dict[str, float]) -> None:
    """The error names the optimizer and all its arguments."""
    with pytest.raises(OptionError, match=f"SGD cannot be created with .*{next(iter(arguments))}"):
        make_optimizers(TrainedModules(linear()), TrainingOptions(optimizer_arguments=arguments))


def test_learning_rate_and_momentum_are_recorded() -> None:
    """The value is one number if all parameter groups agree, and a list otherwise; momentum is Adam's first beta."""
    model = linear()
    groups = [{"params": [model.weight], "lr": 0.1}, {"params": [model.bias], "lr": 0.2}]
    sgd, adamw = SGD(groups, momentum=0.9), AdamW(model.parameters(), lr=5e-5)
    assert optimizer_metrics({"": sgd}) == {"learning_rate": [0.1, 0.2], "optimizer/momentum": 0.9}
    assert optimizer_metrics({"": adamw}) == {"learning_rate": 5e-5, "optimizer/momentum": 0.9}
    assert optimizer_metrics({"": Adagrad(model.parameters(), lr=1.0)}) == {"learning_rate": 1.0}
