"""Optimizers: how they are made, and what is recorded of them."""

from __future__ import annotations

import pytest
from support.tiny import linear
from torch.optim import SGD, Adagrad, AdamW

from trainwire.training.optimizers import make_optimizer, optimizer_metrics
from trainwire.training.options import TrainingOptions
from trainwire_protocol.errors import OptionError


def test_a_class_is_given_the_trainable_parameters() -> None:
    """Frozen parameters are left out, and the arguments arrive."""
    model = linear()
    model.bias.requires_grad_(False)
    options = TrainingOptions(optimizer=AdamW, learning_rate=0.5, optimizer_arguments={"weight_decay": 0.25})
    (group,) = make_optimizer(model, options).param_groups
    assert (group["params"], group["lr"], group["weight_decay"]) == ([model.weight], 0.5, 0.25)


@pytest.mark.parametrize("arguments", [{"momentun": 0.9}, {"momentum": -1}])
def test_arguments_that_it_does_not_take_are_refused(arguments: dict[str, float]) -> None:
    """The error names the optimizer and all that it was given."""
    with pytest.raises(OptionError, match=f"SGD cannot be created with .*{next(iter(arguments))}"):
        make_optimizer(linear(), TrainingOptions(optimizer_arguments=arguments))


def test_learning_rate_and_momentum_are_recorded() -> None:
    """One number if all parameter groups agree, otherwise one for each; momentum is Adam's first beta."""
    model = linear()
    groups = [{"params": [model.weight], "lr": 0.1}, {"params": [model.bias], "lr": 0.2}]
    assert optimizer_metrics(SGD(groups, momentum=0.9)) == {"learning_rate": [0.1, 0.2], "optimizer/momentum": 0.9}
    assert optimizer_metrics(AdamW(model.parameters(), lr=5e-5)) == {"learning_rate": 5e-5, "optimizer/momentum": 0.9}
    assert optimizer_metrics(Adagrad(model.parameters(), lr=1.0)) == {"learning_rate": 1.0}
