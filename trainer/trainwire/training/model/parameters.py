"""The parameters that are trained: those of the model, and those of the loss if it is a module that has some."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any, Final

from torch import Tensor, nn
from torch.optim import LBFGS, Optimizer

from trainwire.training.model.groups import GroupRules, Key
from trainwire.training.model.models import plain_parameters, trainable_parameters
from trainwire.training.options.options import TrainingOptions
from trainwire_protocol.errors import OptionError, UsageError

SHOWN: Final = 5
"""The maximum number of names in a message."""

logger = logging.getLogger("trainwire")


class TrainedModules(nn.Module):
    """The modules whose parameters are trained, saved, averaged and resumed.

    Attributes:
        loss: The loss, if it is a module with trainable parameters that are not the model's; otherwise None.
    """

    def __init__(self, model: nn.Module, loss: object = None) -> None:
        super().__init__()
        self.model = model
        known = {id(parameter) for parameter in model.parameters()}
        own = trainable_parameters(loss) if isinstance(loss, nn.Module) else []
        has_own = any(id(parameter) not in known for parameter in own)
        self.loss: nn.Module | None = loss if has_own and isinstance(loss, nn.Module) else None

    def named(self) -> dict[str, nn.Parameter]:
        """Return the parameters by name, such as `weight`, or `loss.weight` if it is the loss's."""
        found = dict(plain_parameters(self.model))
        if self.loss is not None:
            known = set(map(id, found.values()))
            found |= {f"loss.{name}": each for name, each in plain_parameters(self.loss) if id(each) not in known}
        return found


class ParameterGroups:
    """Keeps the groups of the optimizers complete while parameters are frozen, unfrozen or added.

    A parameter that is unfrozen after its optimizer was created joins the group that it would have been in, before the
    next batch. If the program created the optimizer, a warning names the parameters that it lacks instead.
    """

    def __init__(
        self, modules: TrainedModules, optimizers: Mapping[str, Optimizer], options: TrainingOptions,
        is_decoder: Callable[[str], bool],
    ) -> None:  # fmt: skip
        self._modules, self._optimizers = modules, optimizers
        self._rules = GroupRules(modules, options, is_decoder)
        choices = options.optimizer if isinstance(options.optimizer, Mapping) else {"": options.optimizer}
        self._made = [name for name, choice in choices.items() if not isinstance(choice, Optimizer)]
        """The optimizers that the trainer made, to which parameters may be added."""
        self._frozen: list[nn.Parameter] = []
        self._warned: set[int] = set()
        self._read()

    def update(self, *, thorough: bool = False) -> None:
        """Complete the groups after parameters were unfrozen.

        Args:
            thorough: Look for new parameters of the modules too, which takes longer.
        """
        if not thorough and not any(parameter.requires_grad for parameter in self._frozen):
            return
        named = self._read()
        optimized = self._optimized()
        missing = {name: each for name, each in named.items() if each.requires_grad and id(each) not in optimized}
        added = self._add(missing, named)
        self._warn_of_missing(each for name, each in missing.items() if name not in added)
        self._warn_of_others(named)

    def check_graph(self, loss: Tensor) -> None:
        """Warn of parameters that a loss depends on and no optimizer has, wherever they belong."""
        optimized = self._optimized()
        self._warn_of_missing(each for each in parameters_behind(loss) if id(each) not in optimized)

    def state_dict(self) -> dict[str, Any]:
        """Return the names of the trainable parameters, and the names in each group of each optimizer.

        A parameter in a group that is in neither module has no name: None.
        """
        named = self._modules.named()
        names = _names(named)
        groups = {
            key: [[names.get(id(each)) for each in group["params"]] for group in optimizer.param_groups]
            for key, optimizer in self._optimizers.items()
        }
        return {"trainable": [name for name, each in named.items() if each.requires_grad], "groups": groups}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Freeze and unfreeze parameters, and rebuild the groups, as `state_dict` describes them.

        Raises:
            OptionError: if the optimizer had parameters that do not exist now.
        """
        named, trainable = self._modules.named(), set(state["trainable"])
        for name, parameter in named.items():
            if parameter.requires_grad != (name in trainable):
                parameter.requires_grad_(name in trainable)
        self._read()
        current = self.state_dict()["groups"]
        for name, groups in state["groups"].items():
            if groups != current[name]:
                _rebuild(self._optimizers[name], groups, named)

    def _read(self) -> dict[str, nn.Parameter]:
        named = self._modules.named()
        self._frozen = [each for each in named.values() if not each.requires_grad]
        return named

    def _optimized(self) -> set[int]:
        """Return the identities of the parameters that an optimizer has."""
        return {id(each) for optimizer in self._optimizers.values() for each in optimizer_parameters(optimizer)}

    def _add(self, missing: Mapping[str, nn.Parameter], named: Mapping[str, nn.Parameter]) -> list[str]:
        """Add parameters to the optimizers that would have had them, and return the names of those that were added."""
        owners = {name: [part for part in self._made if in_part(name, part)] for name in missing}
        added = [name for name in missing if owners[name]]
        keys = self._rules.keys(named) if added else {}
        names = _names(named)
        for name in added:
            optimizer = self._optimizers[owners[name][0]]
            if isinstance(optimizer, LBFGS):  # its history has the size of the parameters that it began with
                raise UsageError(
                    f"{name} was unfrozen or added during the training, which LBFGS does not support: do so before it, "
                    "or use another optimizer"
                )
            group = self._group_of(keys[name], keys, names, optimizer.param_groups)
            if group is None:
                optimizer.add_param_group({"params": [missing[name]], **self._rules.settings(keys[name])})
            else:
                group["params"].append(missing[name])
        if added:
            logger.info("parameters that are trained from now on: %s", shown(added))
        return added

    def _warn_of_missing(self, parameters: Iterable[nn.Parameter]) -> None:
        """Warn, once for each, of parameters with gradients that no optimizer updates."""
        new = [each for each in parameters if id(each) not in self._warned]
        if not new:
            return
        self._warned |= set(map(id, new))
        names = _names(self._modules.named())
        found = [names.get(id(each), f"one of shape {tuple(each.shape)} outside model and loss") for each in new]
        logger.warning(
            "parameters that the loss depends on are in no optimizer, and so not trained: %s; make them part of the "
            "model or of a loss that is a module, pass them to the optimizer, or freeze them: requires_grad_(False)",
            shown(found),
        )  # fmt: skip

    def _warn_of_others(self, known: Mapping[str, nn.Parameter]) -> None:
        """Warn, once for each, of parameters in the optimizer that belong neither to the model nor to the loss."""
        ids = self._warned | set(map(id, known.values()))
        optimized = [each for optimizer in self._optimizers.values() for each in optimizer_parameters(optimizer)]
        others = [each for each in optimized if id(each) not in ids]
        self._warned |= set(map(id, others))
        if others:
            logger.warning(
                "the optimizer has parameters that belong neither to the model nor to the loss: %s; they are trained, "
                "but neither saved nor resumed, nor averaged over several processes: make them part of the model",
                shown([f"one of shape {tuple(each.shape)}" for each in others]),
            )

    def _group_of(
        self, key: Key, keys: Mapping[str, Key], names: Mapping[int, str], groups: list[dict[str, Any]]
    ) -> dict[str, Any] | None:
        """Return the first group with a parameter to which the same rules apply, if there is one."""
        if not self._rules:
            return groups[0]
        alike = (
            group
            for group in groups
            if any(keys[names[id(each)]] == key for each in group["params"] if id(each) in names)
        )
        return next(alike, None)


def in_part(name: str, part: str) -> bool:
    """Return whether a parameter of this name belongs to a part of the model; the part "" is all of it."""
    return not part or name.startswith(f"{part}.")


def _rebuild(optimizer: Optimizer, groups: list[list[str | None]], named: Mapping[str, nn.Parameter]) -> None:
    """Give the optimizer groups of the parameters with these names."""
    unknown = {name for group in groups for name in group if name not in named}
    if unknown:
        raise OptionError(
            "the optimizer of the training to resume had other parameters: "
            + shown(["one outside model and loss" if name is None else name for name in sorted(unknown, key=str)])
        )
    current = optimizer.param_groups
    current[:] = [
        {**(current[number] if number < len(current) else optimizer.defaults)}
        | {"params": [named[name] for name in group if name is not None]}
        for number, group in enumerate(groups)
    ]


def optimizer_parameters(optimizer: Optimizer) -> list[nn.Parameter]:
    """Return all parameters that the optimizer updates."""
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def parameters_behind(loss: Tensor) -> list[nn.Parameter]:
    """Return the parameters that a loss depends on, found in its graph."""
    pending, seen, found = [loss.grad_fn], set[object](), []
    while pending:
        node = pending.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        variable = getattr(node, "variable", None)  # of a node that accumulates a gradient
        if isinstance(variable, nn.Parameter):
            found.append(variable)
        pending += [following for following, _ in node.next_functions]
    return found


def shown(names: Collection[str]) -> str:
    """Return some names in one line."""
    listed = list(names)
    return ", ".join(listed[:SHOWN]) + (f" and {len(listed) - SHOWN} more" if len(listed) > SHOWN else "")


def _names(named: Mapping[str, nn.Parameter]) -> dict[int, str]:
    """Return the names of parameters by their identity."""
    return {id(parameter): name for name, parameter in named.items()}
