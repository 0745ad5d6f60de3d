"""`trainwire ping`."""

from __future__ import annotations

import asyncio
from typing import Any

from trainwire_protocol.errors import IncompleteError
from trainwire_protocol.subscription.source import Source, SourceOptions
from trainwire_protocol.subscription.target import Target, resolve_publisher
from trainwire_sinks.cli.ranks import parse_rank
from trainwire_sinks.text.format import one_line


def ping(target: str, *, rank: str = "0") -> int:
    """Check that a trainer or a relay replies, for health checks: the exit code is 0 if it does, and 3 if not.

    Args:
        target: A run's folder, a connection file or an address.
        rank: The rank to ask.
    """
    publisher = resolve_publisher(target, "ping needs a trainer or a relay")
    hello = asyncio.run(_request_hello(publisher, parse_rank(rank)))
    run, state = hello.get("run"), hello.get("state")
    print(one_line(f"{run}, rank {hello.get('rank')}, attempt {hello.get('attempt')}: {state}"))
    return 0


async def _request_hello(target: Target, rank: int) -> dict[str, Any]:
    source = Source(SourceOptions(target, rank, use_journal=False))
    try:
        await source.open()
        if source.requester is None:
            raise IncompleteError(f"no reply from {target}: it has no connection file of a run that has begun")
        return await source.requester.hello()
    except TimeoutError as error:
        raise IncompleteError(f"no reply from {target}" + (f": {error}" if str(error) else "")) from None
    finally:
        await source.close()
