"""Checking values that options were given: each error names the option, what it is, and what it has to be."""

from __future__ import annotations

import math
from typing import Any

from torch.optim import LBFGS, Optimizer
from torch.utils.data import Sampler

from trainwire_protocol.errors import OptionError

LEAST = {
    "mini_batch_size": 1, "eval_batch_size": 1, "mini_batch_chunk_size": 1, "max_epochs": 1, "max_steps": 1,
    "num_workers": 0, "seed": 0, "save_model_each_k_epochs": 0,
}  # fmt: skip
"""The least value of each option that is a whole number."""

OPTIONAL = frozenset({"eval_batch_size", "mini_batch_chunk_size", "max_steps", "seed"})
"""Those that may be None."""


def check(name: str, value: object, is_right: bool, wanted: str) -> None:
    """Refuse a value that is not right.

    Raises:
        OptionError: says what it has to be.
    """
    if not is_right:
        raise OptionError(f"{name} is {value!r}: it has to be {wanted}")


def check_integer(name: str, value: object) -> None:
    """Refuse what is no whole number, or less than the option allows."""
    least, optional = LEAST[name], name in OPTIONAL
    if value is None and optional:
        return
    is_right = type(value) is int and least <= value < 2**63
    check(name, value, is_right, f"a whole number of at least {least}" + (", or None" if optional else ""))


def check_positive(name: str, value: Any) -> None:
    """Refuse what is no finite number above 0."""
    check(name, value, _is_number(value) and 0 < value < math.inf, "a number above 0")


def check_flag(name: str, value: object, *others: object) -> None:
    """Refuse what is neither True nor False, nor one of the others."""
    wanted = " or ".join(["True or False", *map(repr, others)])
    check(name, value, isinstance(value, bool) or any(value is other or value == other for other in others), wanted)


def check_sample(name: str, value: Any) -> None:
    """Refuse what is neither a share of 0.0 to 1.0 nor a number of samples."""
    is_right = _is_number(value) and (0 <= value <= 1 if isinstance(value, float) else value >= 0)
    check(name, value, is_right, "a share such as 0.1, or a number of samples")


def check_optimizer(optimizer: object, arguments: Any) -> None:
    """Refuse what is no optimizer, and arguments that it could not take."""
    is_class = isinstance(optimizer, type) and issubclass(optimizer, Optimizer)
    is_right = is_class or isinstance(optimizer, Optimizer)
    check("optimizer", optimizer, is_right, "a class of torch.optim, or an optimizer")
    if optimizer is LBFGS or isinstance(optimizer, LBFGS):
        raise OptionError("the optimizer LBFGS evaluates the loss several times a step, which the loop does not do")
    check("optimizer_arguments", arguments, hasattr(arguments, "keys"), "a mapping of argument to value")
    if arguments and not is_class:
        raise OptionError("optimizer_arguments are for an optimizer's class: leave them out, as the optimizer is built")
    if "lr" in arguments:
        raise OptionError("optimizer_arguments has 'lr': give it as learning_rate")


def check_names(dev_name: object, metric: object, sinks: object) -> None:
    """Refuse names that a split, a metric or a sink cannot have."""
    check("dev_name", dev_name, dev_name in ("dev", "val"), "'dev' or 'val'")
    check("main_evaluation_metric", metric, metric is None or isinstance(metric, str), "a name such as 'dev/loss'")
    is_list = isinstance(sinks, (list, tuple)) and all(isinstance(sink, str) and sink for sink in sinks)
    check("sinks", sinks, is_list, "a list of names such as ['loss-file']")


def check_sampler(sampler: object) -> None:
    """Refuse what is neither a sampler nor makes one."""
    is_right = sampler is None or isinstance(sampler, Sampler) or callable(sampler)
    check("sampler", sampler, is_right, "a torch sampler, or a function of the training samples that returns one")


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
