"""`trainwire relay`."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from trainwire_protocol.errors import IncompleteError, OptionError
from trainwire_protocol.subscription.target import resolve_publisher
from trainwire_protocol.transport.endpoints import Tcp
from trainwire_sinks.cli.options import check_seconds
from trainwire_sinks.cli.signals import run_until_signal
from trainwire_sinks.relay.relay import Relay


def relay(
    *sources: str,
    output: Path,
    bind: str | None = None,
    advertise: str | None = None,
    server_key: Path | None = None,
    clients: Path | None = None,
    give_up: float | None = None,
    until_over: Annotated[bool, Parameter(negative="")] = False,
) -> int:
    """Copy runs from elsewhere as they are recorded, and serve them on: many sinks at the cost of one to each trainer.

    Each run gets a folder of its own in the output folder, with the run's name. It is a run's folder like any other:
    give it to sinks, watch, replay and verify. Killed and started again, the relay goes on where it was.

    Args:
        sources: Runs' folders, connection files, addresses, and folders of runs or of connection files; what comes into
            a folder later is relayed too.
        output: The folder for the copies.
        bind: tcp://address:port to be reached from other hosts; port 0 is any. A port that is given is the first of two
            for each rank.
        advertise: Host, or host:port, by which clients reach the relay, if it is behind NAT or in a container.
        server_key: The relay's key file, made by keygen; without it the output folder keeps one.
        clients: Folder of the public keys of clients that may connect, beside those who can read a connection file.
        give_up: Seconds after which a trainer on another host that has fallen silent is no longer waited for.
        until_over: End when every source has been found, and all runs there are over.
    """
    if not sources:
        raise OptionError("relay what? Give runs' folders, a folder of runs or of connection files, or addresses")
    for address in (source for source in sources if "://" in source):
        resolve_publisher(address, "a relay copies from trainers and relays")
    there = Tcp.from_environment()
    tcp = Tcp(
        bind or there.bind, advertise or there.advertise, server_key or there.server_key, clients or there.clients
    )
    tcp.check()
    return asyncio.run(_relay(sources, output, tcp, check_seconds("--give-up", give_up), until_over=until_over))


async def _relay(sources: tuple[str, ...], output: Path, tcp: Tcp, give_up: float | None, *, until_over: bool) -> int:
    relaying = Relay(sources, output, tcp, give_up=give_up, until_over=until_over)
    code = await run_until_signal(relaying)
    if until_over and relaying.incomplete:
        raise IncompleteError(f"what could be had is copied; not to the end: {', '.join(relaying.incomplete)}")
    return code
