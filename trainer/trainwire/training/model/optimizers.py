"""The optimizer: its creation, and the metrics recorded about it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import nn
from torch.optim import Optimizer

from trainwire.training.hooks.payloads import MetricValue
from trainwire.training.model.models import name_of
from trainwire.training.model.parameters import TrainedModules, optimizer_parameters
from trainwire.training.options.options import TrainingOptions
from trainwire_protocol.errors import OptionError


def in_decoder(name: str) -> bool:
    """Return whether a parameter of this name belongs to a part called decoder, head or classifier."""
    return not {"decoder", "head", "classifier"}.isdisjoint(name.split("."))


def make_optimizer(
    modules: TrainedModules, options: TrainingOptions, is_decoder: Callable[[str], bool] = in_decoder
) -> Optimizer:
    """Return the optimizer of the trainable parameters.

    Args:
        is_decoder: Called with a parameter's name; returns whether `decoder_learning_rate` applies to it.

    Raises:
        OptionError: if the class does not take the arguments, no parameter belongs to the decoder, or the given
            optimizer is for another model.
    """
    if isinstance(options.optimizer, Optimizer):
        return _checked_optimizer(options.optimizer, modules.model, options.decoder_learning_rate)
    arguments: dict[str, Any] = {"lr": options.learning_rate, **options.optimizer_arguments}
    parameters = _parameter_groups(modules, options.decoder_learning_rate, is_decoder)
    try:
        return options.optimizer(parameters, **arguments)
    except (TypeError, ValueError) as error:
        name = options.optimizer.__name__
        raise OptionError(f"the optimizer {name} cannot be created with {arguments}: {error}") from None


def _checked_optimizer(optimizer: Optimizer, model: nn.Module, decoder_rate: float | None) -> Optimizer:
    if decoder_rate is not None:
        raise OptionError("decoder_learning_rate needs an optimizer class: an optimizer keeps its learning rates")
    known = {id(parameter) for parameter in model.parameters()}
    if not any(id(parameter) in known for parameter in optimizer_parameters(optimizer)):
        raise OptionError(f"the optimizer has no parameter of the model {name_of(model)}: pass the parameters to it")
    return optimizer


def _parameter_groups(
    modules: TrainedModules, decoder_rate: float | None, is_decoder: Callable[[str], bool]
) -> list[Any]:
    """Return the parameters, or two groups of them if the decoder has its own learning rate.

    Frozen ones are left out: `ParameterGroups` adds them when they are unfrozen.
    """
    named = [(name, parameter) for name, parameter in modules.named().items() if parameter.requires_grad]
    if not named:
        raise OptionError(f"the model {name_of(modules.model)} has no trainable parameter, and neither has the loss")
    if decoder_rate is None:
        return [parameter for _, parameter in named]
    decoder = [parameter for name, parameter in named if is_decoder(name)]
    others = [parameter for name, parameter in named if not is_decoder(name)]
    if not decoder:
        raise OptionError(
            f"decoder_learning_rate is {decoder_rate}, but {name_of(modules.model)} has no part named decoder, head or "
            "classifier: override ModelTrainer.is_decoder"
        )
    groups: list[Any] = [{"params": others}, {"params": decoder, "lr": decoder_rate}]
    return groups if others else groups[1:]


def learning_rates(optimizer: Optimizer) -> list[float]:
    """Return the learning rate of each parameter group."""
    return [float(group["lr"]) for group in optimizer.param_groups]


def optimizer_metrics(optimizer: Optimizer) -> dict[str, MetricValue]:
    """Return `learning_rate` and, if there is one, `optimizer/momentum` (Adam's first beta).

    If the parameter groups differ, the value is a list with one number for each group.
    """
    groups = optimizer.param_groups
    metrics = {"learning_rate": one_or_each(learning_rates(optimizer))}
    momenta = [group.get("momentum", group.get("betas", (None,))[0]) for group in groups]
    if None not in momenta:
        metrics["optimizer/momentum"] = one_or_each([float(momentum) for momentum in momenta])
    return metrics


def one_or_each(values: Sequence[float]) -> MetricValue:
    """Return the value if all are equal, otherwise a list of them."""
    return values[0] if len(set(values)) == 1 else list(values)
