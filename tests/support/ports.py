"""Ports for servers that have to be told theirs."""

from __future__ import annotations

import socket
from random import SystemRandom
from typing import Final

BELOW_EPHEMERAL: Final = 32_768
"""The system gives out ports from here on by itself, also those that were found free a moment ago."""


def free_ports(count: int, neighbours: int = 1) -> list[int]:
    """So many ports of this host that are free now, and so are those that follow: each is the first of `neighbours`."""
    found: list[int] = []
    while len(found) < count:
        port = SystemRandom().randrange(10_000, BELOW_EPHEMERAL - neighbours, neighbours)
        if port not in found and all(map(_is_free, range(port, port + neighbours))):
            found.append(port)
    return found


def _is_free(port: int) -> bool:
    with socket.socket() as place:
        try:
            place.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
