"""The groups of an optimizer's parameters: which parameters have settings of their own, such as no weight decay."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any, NamedTuple, TypeAlias

from torch import nn
from torch.optim import Optimizer

from trainwire.training.model.models import name_of
from trainwire.training.options.options import Match, TrainingOptions
from trainwire_protocol.errors import OptionError

Key: TypeAlias = tuple[int, ...]
"""The numbers of the rules that apply to a parameter: those with the same key are in one group."""


class _Rule(NamedTuple):
    applies: Callable[[str, nn.Parameter, Sequence[nn.Module]], bool]
    """Called with a parameter's name, the parameter, and the modules that have it themselves."""
    settings: Mapping[str, Any]
    source: str
    """The option that the rule is from, for errors."""
    remedy: str
    """What to do if it applies to no parameter."""


class GroupRules:
    """The rules by which parameters are grouped: `decoder_learning_rate`, and the options for weight decay and groups.

    All rules that apply to a parameter count; of two that have the same setting, the later one.

    Args:
        modules: The modules that have the parameters.
        is_decoder: Called with a parameter's name; returns whether `decoder_learning_rate` applies to it.
    """

    def __init__(self, modules: nn.Module, options: TrainingOptions, is_decoder: Callable[[str], bool]) -> None:
        self._modules = modules
        self._rules: list[_Rule] = []
        if (rate := options.decoder_learning_rate) is not None:
            source = f"decoder_learning_rate is {rate}"
            remedy = "name a part decoder, head or classifier, or override ModelTrainer.is_decoder"
            self._rules.append(_Rule(lambda name, *_: is_decoder(name), {"lr": rate}, source, remedy))
        if not options.decay_biases_and_norms:
            source, remedy = "decay_biases_and_norms is False", "omit it"
            self._rules.append(_Rule(_is_bias_or_norm, {"weight_decay": 0.0}, source, remedy))
        for number, group in enumerate(options.parameter_groups):
            match, source = group["match"], f"parameter_groups[{number}] has the match {_shown(group['match'])}"
            settings = {name: value for name, value in group.items() if name != "match"}
            remedy = "compare it with the names that model.named_parameters() yields"
            self._rules.append(_Rule(_matching(match), settings, source, remedy))

    def __bool__(self) -> bool:
        """Return whether there are any rules."""
        return bool(self._rules)

    def keys(self, named: Mapping[str, nn.Parameter]) -> dict[str, Key]:
        """Return the keys of the groups to which parameters belong."""
        owners: dict[int, list[nn.Module]] = defaultdict(list)
        for module in self._modules.modules():
            for parameter in module.parameters(recurse=False):
                owners[id(parameter)].append(module)
        return {
            name: tuple(number for number, rule in enumerate(self._rules) if rule.applies(name, each, owners[id(each)]))
            for name, each in named.items()
        }

    def settings(self, key: Key) -> dict[str, Any]:
        """Return the settings of a group."""
        return {name: value for number in key for name, value in self._rules[number].settings.items()}

    def groups(self, named: Mapping[str, nn.Parameter]) -> list[Any]:
        """Return what to create an optimizer with: the parameters, or groups of them if there are rules."""
        if not self._rules:
            return list(named.values())
        members: dict[Key, list[nn.Parameter]] = defaultdict(list)
        for name, key in self.keys(named).items():
            members[key].append(named[name])
        return [{"params": parameters, **self.settings(key)} for key, parameters in sorted(members.items())]

    def check_parameters(self, model: nn.Module, named: Mapping[str, nn.Parameter]) -> None:
        """Check that each rule applies to a parameter, which may be frozen.

        Raises:
            OptionError: if not.
        """
        found = {number for key in self.keys(named).values() for number in key}
        for number, rule in enumerate(self._rules):
            if number not in found:
                raise OptionError(f"{rule.source}, but it applies to no parameter of {name_of(model)}: {rule.remedy}")

    def check_settings(self, optimizer: Optimizer) -> None:
        """Check that the optimizer has the settings of each rule; torch ignores those that it does not have.

        Raises:
            OptionError: if it has not.
        """
        for rule in self._rules:
            for name in rule.settings:
                if name not in optimizer.defaults:
                    raise OptionError(
                        f"{rule.source}, but the optimizer {type(optimizer).__name__} has no setting {name!r}; it has "
                        f"{', '.join(optimizer.defaults)}"
                    )


def _matching(match: Match) -> Callable[[str, nn.Parameter, Sequence[nn.Module]], bool]:
    matches = match if isinstance(match, (list, tuple)) else [match]
    patterns = [each for each in matches if isinstance(each, str)]
    classes = tuple(each for each in matches if isinstance(each, type))

    def applies(name: str, _: nn.Parameter, owners: Sequence[nn.Module]) -> bool:
        return any(fnmatchcase(name, pattern) for pattern in patterns) or any(
            isinstance(owner, classes) for owner in owners
        )

    return applies


def _is_bias_or_norm(_: str, parameter: nn.Parameter, owners: Sequence[nn.Module]) -> bool:
    return parameter.dim() < 2 or any("Norm" in type(owner).__name__ for owner in owners)


def _shown(match: Match) -> str:
    if isinstance(match, type):
        return match.__name__
    return repr(match) if isinstance(match, str) else f"[{', '.join(map(_shown, match))}]"


def matches_of(options: TrainingOptions) -> list[str]:
    """Return by what the parameters are grouped, which a resumed training has in common with the one before."""
    decay = [] if options.decay_biases_and_norms else ["decay_biases_and_norms is False"]
    return decay + [_shown(group["match"]) for group in options.parameter_groups]
