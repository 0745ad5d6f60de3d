"""Keeps a training going when a plugin fails that it can do without."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

from trainwire.training.hooks.hooks import Binding, Listener

if TYPE_CHECKING:
    from trainwire.training.hooks.plugin import Plugin
    from trainwire.training.run import TrainingRun

MAX_FAILURES: Final = 3
"""A plugin that is not essential is called no more once it has failed so often."""

logger = logging.getLogger("trainwire")


def isolated(plugin: Plugin, run: TrainingRun) -> Sequence[Binding]:
    """What is called of a plugin: of one that is not essential such that its failures are reported and forgotten."""
    bindings = plugin.bindings()
    if plugin.essential:
        return bindings
    isolation = Isolation(type(plugin).__name__, run)
    return [Binding(name, isolation.guard(name, listener)) for name, listener in bindings]


class Isolation:
    """Counts one plugin's failures in one training, and reports each as `plugin/failed`."""

    def __init__(self, plugin: str, run: TrainingRun) -> None:
        self.plugin = plugin
        self.failures = 0
        self._run = run

    def guard(self, hook: str, listener: Listener) -> Listener:
        """The listener, without its errors."""

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
        then = "it is called no more" if disabled else "training goes on"
        logger.warning("the plugin %s failed in %s; %s: %r", self.plugin, hook, then, error, exc_info=error)
        about = {"plugin": self.plugin, "hook": hook, "failures": self.failures, "disabled": disabled}
        self._run.publish("plugin/failed", {**about, "error": f"{type(error).__name__}: {error}"[:1000]})
