"""`trainwire keygen`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from trainwire_protocol.transport.key_files import make_key_files


def keygen(
    name: Path,
    *,
    server: Path | None = None,
    read_only: Annotated[bool, Parameter(negative="")] = False,
) -> int:
    """Create a pair of keys for connections over TCP: NAME.key, which is secret, and NAME.pub.

    A publisher started with TRAINWIRE_CLIENTS=FOLDER accepts clients whose .pub files are in that folder. One started
    with TRAINWIRE_SERVER_KEY=NAME.key uses this key instead of a new one for each run. A client that knows only the
    address of a publisher is started with TRAINWIRE_KEY=NAME.key.

    Args:
        name: Path of both files, without suffix.
        server: For a client's key: the .pub file of its publisher.
        read_only: The key does not permit sending commands.
    """
    secret, public = make_key_files(name, server, may_command=not read_only)
    print(f"{secret}: secret, keep it on this host\n{public}: public, copy it to the other side")
    return 0
