"""The optimizers: their creation, and the metrics recorded about them."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import nn
from torch.optim import Optimizer

from trainwire.training.hooks.payloads import MetricValue
from trainwire.training.model.groups import GroupRules
from trainwire.training.model.models import name_of
from trainwire.training.model.parameters import TrainedModules, in_part, optimizer_parameters
from trainwire.training.options.options import NamedOptimizer, TrainingOptions
from trainwire_protocol.errors import OptionError


def in_decoder(name: str) -> bool:
    """Return whether a parameter of this name belongs to a part called decoder, head or classifier."""
    return not {"decoder", "head", "classifier"}.isdisjoint(name.split("."))


def make_optimizers(
    modules: TrainedModules, options: TrainingOptions, is_decoder: Callable[[str], bool] = in_decoder
) -> dict[str, Optimizer]:
    """Return the optimizers of the trainable parameters by name; the only one has the name "".

    Args:
        is_decoder: Called with a parameter's name; returns whether `decoder_learning_rate` applies to it.

    Raises:
        OptionError: if a class does not take the arguments or settings, an optimizer has no parameters or is for
            another model, two share a parameter, or a setting applies to no parameter.
    """
    choice = options.optimizer
    if isinstance(choice, Optimizer):
        if options.decoder_learning_rate is not None:
            raise OptionError("decoder_learning_rate needs an optimizer class: an optimizer keeps its learning rates")
        return {"": _checked_optimizer(choice, modules.model)}
    rules = GroupRules(modules, options, is_decoder)
    rules.check_parameters(modules.model, modules.named())
    if isinstance(choice, Mapping):
        return _make_several(choice, modules, options.learning_rate, rules)
    named = {name: parameter for name, parameter in modules.named().items() if parameter.requires_grad}
    if not named:
        raise OptionError(f"the model {name_of(modules.model)} has no trainable parameter, and neither has the loss")
    return {"": _make(choice, named, {"lr": options.learning_rate, **options.optimizer_arguments}, rules)}


def _make_several(
    choices: Mapping[str, NamedOptimizer], modules: TrainedModules, rate: float, rules: GroupRules
) -> dict[str, Optimizer]:
    made, owners = dict[str, Optimizer](), dict[int, str]()
    for name, choice in choices.items():
        if isinstance(choice, Optimizer):
            made[name] = _checked_optimizer(choice, modules.model, f" {name!r}")
            continue
        kind, arguments = choice if isinstance(choice, tuple) else (choice, {})
        named = {full: each for full, each in modules.named().items() if in_part(full, name) and each.requires_grad}
        if not named:
            raise OptionError(
                f"the optimizer {name!r} has no parameters: {name_of(modules.model)} has no part of that name with "
                "trainable ones; use the part's name, or pass an optimizer that has its parameters"
            )
        for full, parameter in named.items():
            if (other := owners.setdefault(id(parameter), name)) != name:
                raise OptionError(f"the parameter {full} belongs to two optimizers, {other!r} and {name!r}")
        made[name] = _make(kind, named, {"lr": rate, **arguments}, rules)
    return made


def _make(
    kind: type[Optimizer], named: Mapping[str, nn.Parameter], arguments: Mapping[str, Any], rules: GroupRules
) -> Optimizer:
    try:
        optimizer = kind(rules.groups(named), **arguments)
    except (TypeError, ValueError) as error:
        raise OptionError(f"the optimizer {kind.__name__} cannot be created with {arguments}: {error}") from None
    rules.check_settings(optimizer)
    return optimizer


def _checked_optimizer(optimizer: Optimizer, model: nn.Module, name: str = "") -> Optimizer:
    known = {id(parameter) for parameter in model.parameters()}
    if not any(id(parameter) in known for parameter in optimizer_parameters(optimizer)):
        raise OptionError(
            f"the optimizer{name} has no parameter of the model {name_of(model)}: pass the parameters to it"
        )
    return optimizer


def needs_closure(optimizer: Optimizer) -> bool:
    """Return whether the optimizer, such as LBFGS, evaluates the loss several times in a step."""
    closure = inspect.signature(type(optimizer).step).parameters.get("closure")
    return closure is not None and closure.default is closure.empty


def learning_rates(optimizer: Optimizer) -> list[float]:
    """Return the learning rate of each parameter group."""
    return [float(group["lr"]) for group in optimizer.param_groups]


def metric_name(name: str, optimizer: str) -> str:
    """Return the name of a metric of one optimizer, such as `learning_rate/generator`."""
    return f"{name}/{optimizer}" if optimizer else name


def optimizer_metrics(optimizers: Mapping[str, Optimizer]) -> dict[str, MetricValue]:
    """Return `learning_rate` and, if there is one, `optimizer/momentum` (Adam's first beta) of each optimizer.

    If the parameter groups differ, the value is a list with one number for each group.
    """
    metrics: dict[str, MetricValue] = {}
    for name, optimizer in optimizers.items():
        groups = optimizer.param_groups
        metrics[metric_name("learning_rate", name)] = one_or_each(learning_rates(optimizer))
        momenta = [group.get("momentum", group.get("betas", (None,))[0]) for group in groups]
        if None not in momenta:
            metrics[metric_name("optimizer/momentum", name)] = one_or_each([float(each) for each in momenta])
    return metrics


def classes_of(optimizers: Mapping[str, Optimizer]) -> str:
    """Return the names of the optimizers' classes, such as `Adam`, or `generator: Adam, critic: SGD`."""
    return ", ".join(
        f"{name}: {type(optimizer).__name__}" if name else type(optimizer).__name__
        for name, optimizer in optimizers.items()
    )


def one_or_each(values: Sequence[float]) -> MetricValue:
    """Return the value if all are equal, otherwise a list of them."""
    return values[0] if len(set(values)) == 1 else list(values)
