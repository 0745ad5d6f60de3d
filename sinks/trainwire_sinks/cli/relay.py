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
    """Copy runs while they are recorded, and serve the copies, so that many sinks cost each trainer as much as one.

    Each run is copied to a folder with the run's name in the output folder. The copy is a run's folder like any other
    and can be given to sinks, watch, replay and verify. If the relay is stopped, the next start continues where it
    stopped.

    Args:
        sources: Runs' folders, connection files, addresses, and folders of runs or of connection files. Runs that are
            added to a folder later are relayed too.
        output: The folder for the copies.
        bind: tcp://address:port where the relay accepts connections from other hosts; port 0 means any free port. Each
            rank uses two ports, counted from the one given.
        advertise: Host, or host:port, by which clients reach the relay if it is behind NAT or in a container.
        server_key: The relay's key file, created by keygen; by default one is kept in the output folder.
        clients: Folder of the public keys of clients that may connect, in addition to those that can read a connection
            file.
        give_up: Seconds after which to stop waiting for a silent trainer on another host.
        until_over: Exit when every source has been found and all of its runs are over.
    """
    if not sources:
        raise OptionError("the sources are missing: name runs' folders, folders of runs, connection files or addresses")
    for address in (source for source in sources if "://" in source):
        resolve_publisher(address, "a relay copies from trainers and relays")
    defaults = Tcp.from_environment()
    tcp = Tcp(
        bind or defaults.bind,
        advertise or defaults.advertise,
        server_key or defaults.server_key,
        clients or defaults.clients,
    )
    tcp.check()
    relaying = Relay(sources, output, tcp, give_up=check_seconds("--give-up", give_up), until_over=until_over)
    code = asyncio.run(run_until_signal(relaying))
    if until_over and relaying.incomplete:
        raise IncompleteError(f"not copied to their ends: {', '.join(relaying.incomplete)}")
    return code
