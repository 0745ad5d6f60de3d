"""Plugins: the base classes to derive from, and the checks of the plugins that are attached."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import ClassVar

from torch.optim import Optimizer

from trainwire.training.hooks.base_plugin import BasePlugin
from trainwire.training.hooks.hooks import Binding
from trainwire.training.metrics import format_metric
from trainwire.training.model.optimizers import learning_rates, one_or_each
from trainwire.training.options.plugin_names import PluginByName, plugin_by_name
from trainwire.training.run import TrainingRun
from trainwire_protocol.errors import OptionError


class Plugin(BasePlugin[TrainingRun]):
    """Base class of plugins, whose methods marked with `@hook` are called at the hooks of a training.

    An instance takes part in one training at a time, and keeps no reference to it afterwards.
    """


class Scheduler(Plugin):
    """Base class of plugins that set the learning rate; if one is attached, the default schedule is not."""

    sets_each_step: ClassVar[bool] = False
    """Whether it sets the rate at each step, so that nothing else can set it."""
    optimizer: str | None = None
    """The name of the optimizer whose rate it sets; None: all of them."""

    def describe(self) -> str:
        """Return the schedule in one line, for the log; called when the plugin is set up."""
        return type(self).__name__

    def change_initial_rates(self, rates: Sequence[float | None], optimizer: str = "") -> None:
        """Continue with other initial learning rates, which a resumed training was given.

        By default, they become the current ones.

        Args:
            rates: The rate of each parameter group; None if it was not changed.
            optimizer: The name of the optimizer; empty if there is only one.
        """
        self.run.change_learning_rates(rates, "learning_rate was changed", optimizer)


def describe_schedule(plugins: Iterable[object]) -> str:
    """Return what the plugins do to the learning rate, in one line."""
    schedulers = [plugin.describe() for plugin in plugins if isinstance(plugin, Scheduler)]
    return "; ".join(schedulers) or "constant"


def describe_rates(optimizers: Mapping[str, Optimizer]) -> str:
    """Return the learning rates as text, such as `0.1`, or `generator 0.0002, critic 0.0001`."""
    rates = {name: format_metric(one_or_each(learning_rates(each))) for name, each in optimizers.items()}
    return ", ".join(f"{name} {rate}".strip() for name, rate in rates.items())


class Functions(Plugin):
    """The functions added with `ModelTrainer.on`."""

    def __init__(self) -> None:
        self.added: list[Binding] = []

    def bindings(self) -> list[Binding]:
        """Return the functions, in the order in which they were added."""
        return self.added


def checked_plugins(plugins: object) -> tuple[Plugin, ...]:
    """Return the plugins, if each is valid; those that are given by name are created.

    Raises:
        OptionError: if one is not a plugin, is attached twice, or has a method that cannot be called at its hook, or if
            there is no plugin of a name, or it does not accept the arguments.
    """
    if not isinstance(plugins, (list, tuple)):
        raise OptionError(f"plugins is {plugins!r}: give a list of plugins")
    checked: list[Plugin] = []
    for number, given in enumerate(plugins):
        plugin = _created(given, number) if isinstance(given, (str, Mapping)) else given
        if isinstance(plugin, type):
            raise OptionError(
                f"plugins[{number}] is the class {plugin.__name__}: give an instance, {plugin.__name__}()"
            )
        if not isinstance(plugin, Plugin):
            raise OptionError(f"plugins[{number}] is {plugin!r}, which is not a trainwire.Plugin")
        if any(plugin is other for other in checked):
            raise OptionError(f"plugins[{number}], a {type(plugin).__name__}, is attached twice: remove one")
        declarations: tuple[object, ...] = (plugin.after, plugin.before)
        for declared in declarations:
            if not isinstance(declared, (list, tuple)) or not all(isinstance(name, str) for name in declared):
                raise OptionError(
                    f"{type(plugin).__name__} declares the order {declared!r}; it must be a tuple of class names"
                )
        plugin.bindings()
        checked.append(plugin)
    return tuple(checked)


def _created(given: PluginByName, number: int) -> object:
    try:
        return plugin_by_name(given)
    except OptionError as error:
        raise OptionError(f"plugins[{number}]: {error}") from error.__cause__
