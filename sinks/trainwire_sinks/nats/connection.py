"""Connections to NATS servers."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Final

from trainwire_protocol.errors import MissingExtraError, NatsError

if TYPE_CHECKING:
    from nats.aio.client import Client
    from nats.js import JetStreamContext
    from nats.js.api import RawStreamMsg

CONNECT_SECONDS: Final = 5.0
"""Longest time that connecting to one of the servers may take."""

ANSWER_SECONDS: Final = 5.0
"""Longest time that a server may take to answer a request."""


async def connect(servers: Sequence[str]) -> Client:
    """Connect to one of the servers; the client moves to another one when that one is lost.

    Raises:
        NatsError: no server accepts the connection.
        MissingExtraError: nats-py is not installed.
    """
    try:
        from nats.aio.client import Client
        from nats.errors import Error
    except ImportError:
        raise MissingExtraError("nats://", "nats", "nats-py") from None
    client = Client()
    reason = ""

    async def note(error: Exception) -> None:
        nonlocal reason
        # A server that refuses a client reports why and then closes the connection; keep the former.
        if not reason or isinstance(error, Error):
            reason = str(error)

    try:
        with nats_errors(f"{len(servers)} servers" if len(servers) > 1 else "the server"):
            async with asyncio.timeout(CONNECT_SECONDS):
                await client.connect(
                    list(servers),
                    error_cb=note,
                    max_reconnect_attempts=-1,
                    reconnect_time_wait=1,
                    connect_timeout=2,
                )
    except NatsError as error:
        with contextlib.suppress(Exception):
            await client.close()
        # The client retries until the timeout; the reason why it failed is more useful than the timeout.
        raise NatsError(f"NATS: {reason}" if reason else str(error)) from error
    return client


@contextlib.contextmanager
def nats_errors(operation: str) -> Iterator[None]:
    """Turn the client's exceptions into a `NatsError` whose message names the operation."""
    import nats.errors

    try:
        yield
    except (nats.errors.Error, TimeoutError, OSError) as error:
        if isinstance(error, NatsError):
            raise
        raise NatsError(f"NATS: {operation}: {str(error) or type(error).__name__}") from error


async def last_message(context: JetStreamContext, stream: str, subject: str) -> RawStreamMsg | None:
    """Return the last message on a subject, which may contain wildcards; None if there is none.

    Raises:
        NatsError: the servers do not answer.
    """
    from nats.js.errors import NotFoundError

    with nats_errors(f"the last message on {subject}"):
        try:
            return await context.get_last_msg(stream, subject)
        except NotFoundError:
            return None
