"""The base class of plugins, the order in which plugins are called, and the isolation of those that fail."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Final, Generic, TypeVar

from trainwire.training.hooks.hooks import Binding, Listener, plugin_bindings
from trainwire_protocol.errors import OptionError, UsageError

MAX_FAILURES: Final = 3
"""Number of failures after which a plugin that is not essential is disabled."""

Run = TypeVar("Run")
AnyPlugin = TypeVar("AnyPlugin", bound="BasePlugin[Any]")

logger = logging.getLogger("trainwire")


class BasePlugin(Generic[Run]):
    """Base class of plugins for runs of any type: bindings, place in the order, and state."""

    essential: ClassVar[bool] = True
    """Whether a failure ends the training. If not, failures are reported, and the third disables the plugin."""
    after: ClassVar[tuple[str, ...]] = ()
    """Class names of plugins that are called before this one, if they are attached."""
    before: ClassVar[tuple[str, ...]] = ()
    """Class names of plugins that are called after this one, if they are attached."""
    checks_each_loss: ClassVar[bool] = False
    """Whether it reports losses that are not finite at the step where they occur."""
    compares_epochs: ClassVar[bool] = False
    """Whether it compares epochs by the main metric, which must have a direction then."""

    _run: Run | None = None

    @property
    def run(self) -> Run:
        """The training in which this plugin takes part.

        Raises:
            UsageError: if no training is running.
        """
        if self._run is None:
            raise UsageError(f"{type(self).__name__} is not attached: `run` is available only while `train` runs")
        return self._run

    def attach(self, run: Run) -> None:
        """Take part in `run`: called by the trainer before `after_setup`.

        Raises:
            OptionError: if this instance already takes part in a training.
        """
        if self._run is not None:
            raise OptionError(f"{type(self).__name__} takes part in another training: create one instance for each")
        self._run = run

    def detach(self) -> None:
        """Leave the training: called by the trainer at its end, even after an error."""
        self._run = None

    def bindings(self) -> list[Binding]:
        """Return the methods to call, each with its hook: those marked with `@hook`.

        Raises:
            OptionError: if a method cannot be called at its hook.
        """
        return plugin_bindings(self)

    def state_dict(self) -> dict[str, Any]:
        """Return the state that checkpoints save: numbers, strings, tensors, and lists and maps of them."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` returned: called in a resumed training, after `after_setup`."""


def in_order(plugins: Sequence[AnyPlugin]) -> tuple[AnyPlugin, ...]:
    """Return the plugins in attach order, but each after those in its `after`, and those whose `before` has it.

    Raises:
        OptionError: if the declarations form a cycle.
    """
    remaining = list(plugins)
    ordered: list[AnyPlugin] = []
    while remaining:
        free = next((index for index, plugin in enumerate(remaining) if _blocker(plugin, remaining) is None), None)
        if free is None:
            raise OptionError(f"the order of the plugins is a cycle: {_cycle(remaining)}; change `after` or `before`")
        ordered.append(remaining.pop(free))
    return tuple(ordered)


def _blocker(plugin: BasePlugin[Any], remaining: Sequence[BasePlugin[Any]]) -> BasePlugin[Any] | None:
    """Return one of the remaining plugins that must be called before this one."""

    def names(declared: Sequence[str], other: BasePlugin[Any]) -> bool:
        return any(kind.__name__ in declared for kind in type(other).__mro__)

    candidates = (other for other in remaining if other is not plugin)
    return next((other for other in candidates if names(plugin.after, other) or names(other.before, plugin)), None)


def _cycle(remaining: Sequence[BasePlugin[Any]]) -> str:
    path = [remaining[0]]
    while (blocker := _blocker(path[-1], remaining)) is not None and not any(blocker is plugin for plugin in path):
        path.append(blocker)
    start = next((index for index, plugin in enumerate(path) if plugin is blocker), 0)
    return " after ".join(type(plugin).__name__ for plugin in [*path[start:], path[start]])


def isolated(plugin: BasePlugin[Any], publish: Callable[[str, Mapping[str, Any]], object]) -> Sequence[Binding]:
    """Return the plugin's bindings; if it is not essential, they report errors instead of raising them.

    Args:
        publish: Called with the name and the value of a lifecycle event, `plugin/failed`.
    """
    bindings = plugin.bindings()
    if plugin.essential:
        return bindings
    isolation = Isolation(type(plugin).__name__, publish)
    return [Binding(name, isolation.guard(name, listener)) for name, listener in bindings]


class Isolation:
    """Counts one plugin's failures in one training, and publishes each as `plugin/failed`."""

    def __init__(self, plugin: str, publish: Callable[[str, Mapping[str, Any]], object]) -> None:
        self.plugin = plugin
        self.failures = 0
        self._publish = publish

    def guard(self, hook: str, listener: Listener) -> Listener:
        """Return a listener that reports errors, and does nothing once the plugin is disabled."""

        def guarded(payload: Any) -> None:
            if self.failures < MAX_FAILURES:
                try:
                    listener(payload)
                except Exception as error:
                    self._report(hook, error)

        return guarded

    def _report(self, hook: str, error: Exception) -> None:
        self.failures += 1
        disabled = self.failures >= MAX_FAILURES
        outcome = "the plugin is disabled" if disabled else "training continues"
        logger.warning("the plugin %s failed in %s; %s: %r", self.plugin, hook, outcome, error, exc_info=error)
        about = {"plugin": self.plugin, "hook": hook, "failures": self.failures, "disabled": disabled}
        self._publish("plugin/failed", {**about, "error": f"{type(error).__name__}: {error}"[:1000]})
