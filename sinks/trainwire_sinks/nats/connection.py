"""Speaking to NATS servers."""

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
"""How long a server has to let somebody in, of all that were named."""

ANSWER_SECONDS: Final = 5.0
"""How long it has to answer a question."""


async def connect(servers: Sequence[str]) -> Client:
    """A connection to one of the servers, which goes over to another when that one is gone.

    Raises:
        NatsError: none of them lets us in.
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
        # The server says why it lets nobody in, and hangs up: of the two its word says more.
        if not reason or isinstance(error, Error):
            reason = str(error)

    try:
        with told(f"{len(servers)} servers" if len(servers) > 1 else "the server"):
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
        # It tries again and again, so that time runs out: what went wrong each time says more.
        raise NatsError(f"NATS: {reason}" if reason else str(error)) from error
    return client


@contextlib.contextmanager
def told(what: str) -> Iterator[None]:
    """Turn what the client raises into a `NatsError` that says of what it speaks."""
    import nats.errors

    try:
        yield
    except (nats.errors.Error, TimeoutError, OSError) as error:
        if isinstance(error, NatsError):
            raise
        raise NatsError(f"NATS: {what}: {str(error) or type(error).__name__}") from error


async def last_message(context: JetStreamContext, stream: str, subject: str) -> RawStreamMsg | None:
    """The last message on a subject, which may hold wildcards; None if there is none.

    Raises:
        NatsError: it cannot be had.
    """
    from nats.js.errors import NotFoundError

    with told(f"the last message on {subject}"):
        try:
            return await context.get_last_msg(stream, subject)
        except NotFoundError:
            return None
