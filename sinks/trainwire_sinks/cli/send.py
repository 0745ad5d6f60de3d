"""`trainwire send`."""

from __future__ import annotations

import asyncio

from trainwire_protocol.commands import VERBS
from trainwire_protocol.errors import UsageError
from trainwire_protocol.subscription.command_client import send_command
from trainwire_protocol.subscription.target import resolve_publisher


def send(target: str, verb: str, *values: str, rank: int = 0, timeout: float = 30.0) -> int:
    """Send a command to a training: stop, checkpoint, evaluate, pause, resume, or set learning_rate=0.01

    It is obeyed after the step that is being trained, by all processes that train together.

    Args:
        target: A run's folder, a connection file or an address.
        verb: What to do.
        values: What to set: name=value.
        rank: Which process to send it to.
        timeout: Seconds to wait until the training says that it obeys; 0 to hand the command in and leave.
    """
    arguments = _arguments(_checked(verb, values))
    where = resolve_publisher(target, "send speaks to a trainer or a relay")
    obeyed = asyncio.run(send_command(where, verb, arguments, rank=rank, timeout=timeout))
    print(f"{verb}: {'applied' if obeyed else 'handed in; what becomes of it will stand in the log'}")
    return 0


def _checked(verb: str, values: tuple[str, ...]) -> tuple[str, ...]:
    if verb not in VERBS:
        raise UsageError(f"there is no command {verb!r}; the commands are {', '.join(VERBS)}")
    if verb == "set" and not values:
        raise UsageError("set takes a value, such as learning_rate=0.01")
    if verb != "set" and values:
        raise UsageError(f"{verb} takes no values")
    return values


def _arguments(values: tuple[str, ...]) -> dict[str, float]:
    arguments = {}
    for value in values:
        name, _, number = value.partition("=")
        try:
            arguments[name] = float(number)
        except ValueError:
            raise UsageError(f"{value!r} is no name=number, such as learning_rate=0.01") from None
    return arguments
