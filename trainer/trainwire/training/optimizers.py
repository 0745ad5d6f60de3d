"""Making an optimizer, and what is recorded of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from torch import nn
from torch.optim import Optimizer

from trainwire.training.hooks.payloads import MetricValue
from trainwire.training.hooks.plugin import Plugin
from trainwire.training.models import trainable_parameters
from trainwire.training.options import TrainingOptions
from trainwire_protocol.errors import OptionError

if TYPE_CHECKING:
    from trainwire.training.run import TrainingRun


def in_decoder(name: str) -> bool:
    """Whether a parameter of this name is of a part called decoder, head or classifier."""
    return not {"decoder", "head", "classifier"}.isdisjoint(name.split("."))


def make_optimizer(
    model: nn.Module, options: TrainingOptions, is_decoder: Callable[[str], bool] = in_decoder
) -> Optimizer:
    """The optimizer of the model's trainable parameters.

    Args:
        is_decoder: Says by a parameter's name whether `decoder_learning_rate` is for it.

    Raises:
        OptionError: its class does not take its arguments, no parameter is of the decoder, or the optimizer that was
            given is for another model.
    """
    if isinstance(options.optimizer, Optimizer):
        return _checked_optimizer(options.optimizer, model, options.decoder_learning_rate)
    arguments: dict[str, Any] = {"lr": options.learning_rate, **options.optimizer_arguments}
    parameters = _parameters(model, options.decoder_learning_rate, is_decoder)
    try:
        return options.optimizer(parameters, **arguments)
    except (TypeError, ValueError) as error:
        name = options.optimizer.__name__
        raise OptionError(f"the optimizer {name} cannot be made with {arguments}: {error}") from None


def _checked_optimizer(optimizer: Optimizer, model: nn.Module, decoder_rate: float | None) -> Optimizer:
    if decoder_rate is not None:
        raise OptionError("decoder_learning_rate is for an optimizer's class: an optimizer keeps its learning rates")
    known = {id(parameter) for parameter in model.parameters()}
    if not any(id(parameter) in known for parameter in optimizer_parameters(optimizer)):
        raise OptionError(f"the optimizer changes no parameter of the model {type(model).__name__}: it is another's")
    return optimizer


def _parameters(model: nn.Module, decoder_rate: float | None, is_decoder: Callable[[str], bool]) -> list[Any]:
    """The parameters, or two groups of them if the decoder has a learning rate of its own."""
    if decoder_rate is None:
        return trainable_parameters(model)
    named = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
    decoder = [parameter for name, parameter in named if is_decoder(name)]
    others = [parameter for name, parameter in named if not is_decoder(name)]
    if not decoder:
        raise OptionError(
            f"decoder_learning_rate is {decoder_rate}, but {type(model).__name__} has no part named decoder, head or "
            "classifier: override ModelTrainer.is_decoder"
        )
    groups: list[Any] = [{"params": others}, {"params": decoder, "lr": decoder_rate}]
    return groups if others else groups[1:]


def learning_rates(optimizer: Optimizer) -> list[float]:
    """The learning rate of each parameter group."""
    return [float(group["lr"]) for group in optimizer.param_groups]


def optimizer_parameters(optimizer: Optimizer) -> list[nn.Parameter]:
    """Every parameter that the optimizer changes."""
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def optimizer_metrics(optimizer: Optimizer) -> dict[str, MetricValue]:
    """`learning_rate` and, if there is one, `optimizer/momentum` (Adam's first beta): of each group if they differ."""
    groups = optimizer.param_groups
    metrics = {"learning_rate": one_or_each(learning_rates(optimizer))}
    momenta = [group.get("momentum", group.get("betas", (None,))[0]) for group in groups]
    if None not in momenta:
        metrics["optimizer/momentum"] = one_or_each([float(momentum) for momentum in momenta])
    return metrics


def one_or_each(values: Sequence[float]) -> MetricValue:
    """The value if all are the same, or the list of them."""
    return values[0] if len(set(values)) == 1 else list(values)


class Scheduler(Plugin):
    """Base of plugins that set the learning rate: with one of them, the default schedule is not attached."""

    sets_each_step: ClassVar[bool] = False
    """Whether it sets the rate at each step, so that nobody else can."""


def set_learning_rates(run: TrainingRun, rates: list[float], reason: str) -> None:
    """Give each group of the optimizer its learning rate, and say so on the wire if one changes."""
    before = learning_rates(run.optimizer)
    for group, rate in zip(run.optimizer.param_groups, rates, strict=True):
        group["lr"] = rate
    say_changed(run, before, reason)


def say_changed(run: TrainingRun, before: list[float], reason: str) -> None:
    """Publish `learning_rate/changed` if a learning rate is not what it was before."""
    after = learning_rates(run.optimizer)
    if after != before:
        run.publish("learning_rate/changed", {"from": one_or_each(before), "to": one_or_each(after), "reason": reason})
