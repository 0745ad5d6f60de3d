"""What a training does when it is sent a command: `trainwire send`."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final

from trainwire.control import Command
from trainwire.scheduling import Scheduler
from trainwire_protocol.errors import UsageError

if TYPE_CHECKING:
    from trainwire.run import TrainingRun


def obey(run: TrainingRun, command: Command) -> None:
    """Turn a command into an intention, or refuse it; either is said on the wire."""
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
        raise UsageError("nothing here saves checkpoints: attach the plugin Checkpoints")
    run.control.checkpoint()


def _evaluate(run: TrainingRun, _: Mapping[str, Any]) -> None:
    if not run.watched_splits:
        raise UsageError("there is no split to evaluate")
    run.control.evaluate()


def _pause(run: TrainingRun, _: Mapping[str, Any]) -> None:
    run.control.pause()


def _resume(run: TrainingRun, _: Mapping[str, Any]) -> None:
    run.control.resume()


def _set(run: TrainingRun, arguments: Mapping[str, Any]) -> None:
    if set(arguments) != {"learning_rate"}:
        raise UsageError("what can be set is learning_rate, and nothing else")
    rate = arguments["learning_rate"]
    if isinstance(rate, bool) or not isinstance(rate, (int, float)) or not 0 < rate < math.inf:
        raise UsageError(f"learning_rate is {rate!r:.60}: it has to be a number above 0")
    for plugin in run.plugins:
        if isinstance(plugin, Scheduler) and plugin.sets_each_step:
            raise UsageError(f"{type(plugin).__name__} sets the learning rate at each step")
    run.control.set_learning_rate(float(rate))


_ACTIONS: Final[dict[str, Callable[[TrainingRun, Mapping[str, Any]], None]]] = {
    "stop": _stop, "checkpoint": _checkpoint, "evaluate": _evaluate, "pause": _pause, "resume": _resume, "set": _set,
}  # fmt: skip
