"""Commands from other processes: each is checked, and then becomes a request to the training or is rejected."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, Final

from trainwire.training.plugin import Scheduler
from trainwire.training.run import TrainingRun
from trainwire_protocol.commands import Command
from trainwire_protocol.errors import UsageError


def apply_command(run: TrainingRun, command: Command) -> None:
    """Turn a command into a request, and publish `command/applied` or `command/rejected`."""
    about = {"id": command.id, "verb": command.verb}
    try:
        action = _ACTIONS.get(command.verb)
        if action is None:
            raise UsageError(f"there is no command {command.verb!r:.60}; the commands are {', '.join(_ACTIONS)}")
        action(run, command.arguments)
    except UsageError as error:
        run.publish("command/rejected", {**about, "reason": str(error)})
    else:
        run.publish("command/applied", about)


def _stop(run: TrainingRun, arguments: Mapping[str, Any]) -> None:
    run.control.stop(str(arguments.get("reason", "stopped by a command"))[:1000])


def _checkpoint(run: TrainingRun, _: Mapping[str, Any]) -> None:
    if run.checkpointer is None:
        raise UsageError("no plugin saves checkpoints: attach one that does")
    run.control.checkpoint()


def _evaluate(run: TrainingRun, _: Mapping[str, Any]) -> None:
    if not run.monitored_splits:
        raise UsageError("there is no split to evaluate")
    run.control.evaluate()


def _set(run: TrainingRun, arguments: Mapping[str, Any]) -> None:
    if set(arguments) != {"learning_rate"}:
        raise UsageError("only learning_rate can be set")
    rate = arguments["learning_rate"]
    if isinstance(rate, bool) or not isinstance(rate, (int, float)) or not 0 < rate < math.inf:
        raise UsageError(f"learning_rate is {rate!r:.60}; it must be a number above 0")
    for plugin in run.plugins:
        if isinstance(plugin, Scheduler) and plugin.sets_each_step:
            raise UsageError(f"the learning rate cannot be set: {type(plugin).__name__} sets it at each step")
    run.control.set_learning_rate(float(rate))


_ACTIONS: Final[dict[str, Callable[[TrainingRun, Mapping[str, Any]], None]]] = {
    "stop": _stop,
    "checkpoint": _checkpoint,
    "evaluate": _evaluate,
    "pause": lambda run, _: run.control.pause(),
    "resume": lambda run, _: run.control.resume(),
    "set": _set,
}
