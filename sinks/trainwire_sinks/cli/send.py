"""`trainwire send`."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from trainwire_protocol.commands import VERBS
from trainwire_protocol.errors import UsageError
from trainwire_protocol.subscription.command_client import send_command
from trainwire_protocol.subscription.target import resolve_publisher


def send(target: str, verb: str, *values: str, rank: int = 0, timeout: float = 30.0) -> int:
    """Send a command to a training: stop, checkpoint, evaluate, pause, resume, or set learning_rate=0.01

    The training applies it after the current step, in all of its processes.

    Args:
        target: A run's folder, a connection file or an address.
        verb: The command.
        values: For set: name=value.
        rank: The rank that the command is sent to.
        timeout: Seconds to wait for the training's answer; 0 to submit the command without waiting.
    """
    if verb not in VERBS:
        raise UsageError(f"there is no command {verb!r}; the commands are {', '.join(VERBS)}")
    if verb == "set" and not values:
        raise UsageError("set needs a value, such as learning_rate=0.01")
    if verb != "set" and values:
        raise UsageError(f"{verb} takes no values")
    publisher = resolve_publisher(target, "send needs a trainer or a relay")
    is_applied = asyncio.run(send_command(publisher, verb, _parse_values(values), rank=rank, timeout=timeout))
    print(f"{verb}: {'applied' if is_applied else 'submitted; see the log for its outcome'}")
    return 0


def _parse_values(values: Sequence[str]) -> dict[str, float]:
    arguments = {}
    for value in values:
        name, _, number = value.partition("=")
        try:
            arguments[name] = float(number)
        except ValueError:
            raise UsageError(f"{value!r} is not name=number, such as learning_rate=0.01") from None
    return arguments
