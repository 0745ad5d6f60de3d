"""`trainwire ping`."""

from __future__ import annotations

import asyncio
from typing import Any

from trainwire_protocol.errors import IncompleteError
from trainwire_protocol.subscription.source import Source, SourceOptions
from trainwire_protocol.subscription.target import Target, resolve_publisher
from trainwire_protocol.transport.requester import Requester
from trainwire_sinks.cli.options import parse_rank
from trainwire_sinks.text.format import one_line


def ping(target: str, *, rank: str = "0") -> int:
    """Ask a trainer or a relay whether it is there, for health checks: exit code 0 if it answers, or else 3.

    Args:
        target: A run's folder, a connection file or an address.
        rank: The process that is asked.
    """
    where = resolve_publisher(target, "ping asks a trainer or a relay")
    hello = asyncio.run(_ask(where, parse_rank(rank)))
    print(
        one_line(f"{hello.get('run')}, rank {hello.get('rank')}, attempt {hello.get('attempt')}: {hello.get('state')}")
    )
    return 0


async def _ask(target: Target, rank: int) -> dict[str, Any]:
    source = Source(SourceOptions(target, rank, use_journal=False))
    try:
        await source.open()
        return await _hello(target, source.requester)
    finally:
        await source.close()


async def _hello(target: Target, requester: Requester | None) -> dict[str, Any]:
    if requester is None:
        raise IncompleteError(f"nobody can be asked at {target}: there is no connection file of a run that has begun")
    try:
        return await requester.hello()
    except TimeoutError:
        raise IncompleteError(f"nobody answers at {target}") from None
