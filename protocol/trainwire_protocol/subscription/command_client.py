"""Sends a command to a running training, and waits for the answer in its stream."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import zmq.asyncio

from trainwire_protocol.errors import ConnectionFileError, IncompleteError, TargetError, UsageError
from trainwire_protocol.journal.run_folder import list_attempts
from trainwire_protocol.journal.tail import batches_backwards, ending_in
from trainwire_protocol.subscription.subscription import Subscription
from trainwire_protocol.subscription.target import Target
from trainwire_protocol.transport.connection import Connection, read_connection_of
from trainwire_protocol.transport.key_files import keys_to
from trainwire_protocol.transport.requester import REPLY_SECONDS, Requester
from trainwire_protocol.wire import Cursor

TRIES: Final = 3
"""Number of times a request is sent until there is a reply. A command has an id, so a repeated one is applied once."""


async def send_command(
    target: Target, verb: str, arguments: Mapping[str, Any] | None = None, *, rank: int = 0, timeout: float = 30.0
) -> bool:
    """Send a command, and return whether the training reported within `timeout` seconds that it was applied.

    The training answers in its stream after the current step. With a `timeout` of 0 this does not wait for the answer.

    Raises:
        TargetError: no training is running there, or it cannot be reached.
        RequestError: the publisher refused the command.
        UsageError: the training rejected the command; gives its reason.
        IncompleteError: the publisher does not reply, or the training ended before it answered.
    """
    identifier = secrets.token_hex(8)
    command = {"id": identifier, "verb": verb, "arguments": dict(arguments or {})}
    async with _connect(target, rank) as requester:
        head = await _request(requester, target, "hello")
        await _request(requester, target, "command", command=command)
    if not timeout:
        return False
    position = Cursor(head["attempt"], head["heads"].get("event", -1))
    try:
        async with asyncio.timeout(timeout):
            await _wait_for_answer(Subscription(target, rank=rank, cursor=position), identifier)
    except TimeoutError:
        return False
    return True


async def _request(requester: Requester, target: Target, verb: str, **arguments: Any) -> dict[str, Any]:
    reason = ""
    for _ in range(TRIES):
        try:
            return (await requester.request(verb, **arguments))[0]
        except TimeoutError as error:
            reason = f": {error}" if str(error) else ""
    raise IncompleteError(f"the training in {target} did not reply within {TRIES * REPLY_SECONDS:.0f} s{reason}")


async def _wait_for_answer(subscription: Subscription, identifier: str) -> None:
    async with subscription:
        async for batch in subscription:
            for event in batch.events:
                if event.name not in ("command/applied", "command/rejected") or event.value.get("id") != identifier:
                    continue
                if event.name == "command/rejected":
                    raise UsageError(f"the training rejected the command: {event.value.get('reason')}")
                return
    raise IncompleteError("the training ended before it answered")


@asynccontextmanager
async def _connect(target: Target, rank: int) -> AsyncIterator[Requester]:
    connection = _find_connection(target, rank)
    endpoint = connection.request if connection else target.request
    if endpoint is None:
        raise TargetError(f"no training can be reached in {target}: there is no connection file")
    context = zmq.asyncio.Context()
    requester = Requester(context, endpoint, connection.keys if connection else keys_to(endpoint))
    try:
        yield requester
    finally:
        await requester.close()
        context.term()


def _find_connection(target: Target, rank: int) -> Connection | None:
    """Return the content of the connection file, or None for an address.

    Raises:
        TargetError: there is no connection file, or its publisher cannot be reached.
    """
    if target.folder is None:
        return target.connection
    try:
        connection = read_connection_of(target.folder, rank)
    except ConnectionFileError as error:
        raise TargetError(f"no training is running in {target}: {_ending(target.folder, rank) or error}") from error
    if not connection.is_reachable():
        reason = _ending(target.folder, rank) or "its process has ended, or is on another host"
        raise TargetError(f"no training can be reached in {target}: {reason}")
    return connection


def _ending(folder: Path, rank: int) -> str:
    """Return how the last attempt of a rank ended, or an empty text if it has recorded no end."""
    attempts = list_attempts(folder, rank)
    ending = ending_in(next(batches_backwards(attempts[-1]), None)) if attempts else None
    if ending is None:
        return ""
    reason = ending.value.get("reason")
    return f"the run is over: {ending.name.removeprefix('run/')}" + (f" ({reason})" if reason else "")
