"""`trainwire send`."""

from __future__ import annotations

import asyncio
import secrets
from typing import Any

import zmq.asyncio

from trainwire_protocol.connection import Connection, connection_path, read_connection
from trainwire_protocol.errors import ConnectionFileError, IncompleteError, TargetError, UsageError
from trainwire_protocol.requests import REPLY_SECONDS, Requester
from trainwire_protocol.target import Target, resolve_target

VERBS = ("stop", "checkpoint", "evaluate", "pause", "resume", "set")

TRIES = 3
"""How often a command is sent until there is a reply; it has an id, and is obeyed once."""


def send(target: str, verb: str, *values: str, rank: int = 0) -> int:
    """Send a command to a training: stop, checkpoint, evaluate, pause, resume, or set learning_rate=0.01

    It is done after the step that is being trained, by all processes that train together. Whether it was done is said
    in the run's stream, and so in training.log.

    Args:
        target: A run's folder, a connection file or an address.
        verb: What to do.
        values: What to set: name=value.
        rank: Which process to send it to.
    """
    command = {"id": secrets.token_hex(8), "verb": _checked(verb, values), "arguments": _arguments(values)}
    asyncio.run(_send(resolve_target(target), rank, command))
    print(f"{verb}: handed in")
    return 0


def _checked(verb: str, values: tuple[str, ...]) -> str:
    if verb not in VERBS:
        raise UsageError(f"there is no command {verb!r}; the commands are {', '.join(VERBS)}")
    if bool(values) != (verb == "set"):
        raise UsageError(
            "set takes a value, such as learning_rate=0.01" if verb == "set" else f"{verb} takes no values"
        )
    return verb


def _arguments(values: tuple[str, ...]) -> dict[str, float]:
    arguments = {}
    for value in values:
        name, _, number = value.partition("=")
        try:
            arguments[name] = float(number)
        except ValueError:
            raise UsageError(f"{value!r} is no name=number, such as learning_rate=0.01") from None
    return arguments


async def _send(target: Target, rank: int, command: dict[str, Any]) -> None:
    connection = _connection(target, rank)
    endpoint = connection.request if connection else target.request
    if endpoint is None:
        raise TargetError(f"there is no training in {target}: it has no connection file")
    context = zmq.asyncio.Context()
    requester = Requester(context, endpoint, connection.keys if connection else None)
    try:
        await _ask(requester, target, command)
    finally:
        await requester.close()
        context.term()


async def _ask(requester: Requester, target: Target, command: dict[str, Any]) -> None:
    for _ in range(TRIES):
        try:
            await requester.ask("command", command=command)
        except TimeoutError:
            continue
        return
    raise IncompleteError(f"the training in {target} has not replied for {TRIES * REPLY_SECONDS:.0f} s")


def _connection(target: Target, rank: int) -> Connection | None:
    """The connection file's content, unless its process is gone.

    Raises:
        TargetError: the training is over.
    """
    if target.folder is None:
        return target.connection
    path = connection_path(target.folder, rank)
    try:
        connection = read_connection(path)
    except ConnectionFileError as error:
        raise TargetError(f"no training is running in {target}: {error}") from error
    if not connection.is_reachable():
        raise TargetError(f"no training can be reached in {target}: its process is gone, or on another host")
    return connection
