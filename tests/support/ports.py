"""Free ports for servers that cannot choose a port themselves."""

from __future__ import annotations

import socket
from random import SystemRandom
from typing import Final

BELOW_EPHEMERAL: Final = 32_768
"""The system assigns ports from here on by itself, possibly one that was found free a moment ago."""


def free_ports(count: int, neighbours: int = 1) -> list[int]:
    """Return `count` free ports, each the first of `neighbours` consecutive free ports."""
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
