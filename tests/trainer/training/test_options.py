"""The options of a training, and what they refuse."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest
import torch
from support.tiny import linear
from torch.optim import SGD, AdamW

from trainwire.training.options import TrainingOptions
from trainwire_protocol.errors import OptionError
from trainwire_protocol.events import Event, validate


def test_the_defaults_are_those_of_a_plain_training() -> None:
    """Left alone, it is SGD at 0.1 with batches of 32, and files of losses and of the log."""
    options = TrainingOptions()
    assert (options.optimizer, options.learning_rate, options.mini_batch_size) == (SGD, 0.1, 32)
    assert options.sinks == ("loss-file", "log-file")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("learning_rate", 0), ("learning_rate", -0.1), ("learning_rate", math.nan), ("learning_rate", math.inf),
        ("learning_rate", "0.1"), ("learning_rate", True), ("mini_batch_size", 0), ("mini_batch_size", -32),
        ("mini_batch_size", 1.5), ("mini_batch_size", None), ("mini_batch_size", True), ("eval_batch_size", 0),
        ("max_epochs", 0), ("max_steps", 0), ("num_workers", -1), ("seed", -1), ("seed", 2**63),
        ("max_grad_norm", 0), ("optimizer", "SGD"), ("optimizer", dict), ("optimizer_arguments", [0.9]),
        ("optimizer_arguments", {"lr": 0.1}), ("shuffle", "yes"), ("monitor_test", None), ("dev_name", "test"),
        ("dev_name", "a/b"), ("dev_name", ""), ("main_evaluation_metric", ("dev", "loss")), ("sinks", "loss-file"),
        ("sinks", [1]), ("bind", 5), ("bind", "localhost"),
    ],
)  # fmt: skip
def test_a_value_that_cannot_be_is_refused_by_name(name: str, value: Any) -> None:
    """The error names the option; nothing is silently changed to something else."""
    with pytest.raises(OptionError, match=name):
        TrainingOptions(**{name: value})


def test_an_unknown_option_is_refused_with_the_valid_names() -> None:
    """A misspelled option is an error that guesses what was meant and lists all names."""
    with pytest.raises(OptionError) as raised:
        TrainingOptions.from_keywords({"lerning_rate": 0.1})
    assert "did you mean 'learning_rate'?" in str(raised.value)
    assert all(field.name in str(raised.value) for field in dataclasses.fields(TrainingOptions))


def test_an_optimizer_that_is_built_takes_no_arguments() -> None:
    """Arguments are for a class; with an optimizer they would be ignored, and are refused."""
    optimizer = SGD(linear().parameters(), lr=0.5)
    assert TrainingOptions(optimizer=optimizer).optimizer is optimizer
    with pytest.raises(OptionError, match="leave them out"):
        TrainingOptions(optimizer=optimizer, optimizer_arguments={"momentum": 0.9})


def test_options_are_plain_values_for_the_wire() -> None:
    """Whatever was given, the hyperparameters can be published."""
    options = TrainingOptions(optimizer=AdamW, optimizer_arguments={"betas": (0.9, 0.99)}, device=torch.device("cpu"))
    values = options.as_hyperparameters()
    validate(Event("hparams", values, "hparams", 0.0, 0))
    assert (values["optimizer"], values["device"]) == ("AdamW", "cpu")
    assert values["optimizer_arguments"] == {"betas": [0.9, 0.99]}
    assert TrainingOptions(optimizer=SGD(linear().parameters())).as_hyperparameters()["optimizer"] == "SGD"
