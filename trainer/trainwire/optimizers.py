"""Making an optimizer, and what is recorded of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn
from torch.optim import Optimizer

from trainwire.models import trainable_parameters
from trainwire.options import TrainingOptions
from trainwire.payloads import MetricValue
from trainwire_protocol.errors import OptionError


def make_optimizer(model: nn.Module, options: TrainingOptions) -> Optimizer:
    """The optimizer of the model's trainable parameters.

    Raises:
        OptionError: its class does not take its arguments.
    """
    if isinstance(options.optimizer, Optimizer):
        return options.optimizer
    arguments: dict[str, Any] = {"lr": options.learning_rate, **options.optimizer_arguments}
    try:
        return options.optimizer(trainable_parameters(model), **arguments)
    except (TypeError, ValueError) as error:
        name = options.optimizer.__name__
        raise OptionError(f"the optimizer {name} cannot be made with {arguments}: {error}") from None


def optimizer_parameters(optimizer: Optimizer) -> list[nn.Parameter]:
    """Every parameter that the optimizer changes."""
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def optimizer_metrics(optimizer: Optimizer) -> dict[str, MetricValue]:
    """`learning_rate` and, if there is one, `optimizer/momentum` (Adam's first beta): of each group if they differ."""
    groups = optimizer.param_groups
    metrics = {"learning_rate": one_or_each([float(group["lr"]) for group in groups])}
    momenta = [group.get("momentum", group.get("betas", (None,))[0]) for group in groups]
    if None not in momenta:
        metrics["optimizer/momentum"] = one_or_each([float(momentum) for momentum in momenta])
    return metrics


def one_or_each(values: Sequence[float]) -> MetricValue:
    """The value if all are the same, or the list of them."""
    return values[0] if len(set(values)) == 1 else list(values)
