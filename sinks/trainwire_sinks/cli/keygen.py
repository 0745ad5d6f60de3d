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
    """Make a pair of keys for connections over TCP: NAME.key, which stays here, and NAME.pub.

    A publisher that is started with TRAINWIRE_CLIENTS=FOLDER lets in whoever has his .pub file in that folder. One that
    is started with TRAINWIRE_SERVER_KEY=NAME.key has this key, instead of a new one for each run. A client that knows
    nothing but the address of a publisher is started with TRAINWIRE_KEY=NAME.key.

    Args:
        name: Path of both files, without suffix.
        server: The .pub file of the publisher that a client's key is for.
        read_only: The key may not send commands.
    """
    secret, public = make_key_files(name, server, may_command=not read_only)
    print(f"{secret}: keep it here\n{public}: for the other side")
    return 0
