"""A run in a stream, as it is typed: `nats://host:4222,host:4222/run?stream=name`."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from typing import Final
from urllib.parse import parse_qs, unquote, urlsplit

from trainwire_protocol.errors import OptionError

SCHEMES: Final = ("nats", "tls")
STREAM: Final = "trainwire"
PASSWORD: Final = "TRAINWIRE_NATS_PASSWORD"
"""Environment variable with the password of a user whose name the address has: so it stands on no command line."""

_STREAM_NAME: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")
_SERVER: Final = re.compile(r"(?:[^@/\s]+@)?(?:[^\s@/:]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]{1,5})?")


@dataclass(frozen=True)
class Address:
    """Servers of one cluster, the stream, and the run in it."""

    servers: tuple[str, ...]
    """URLs, of which one that answers is enough."""
    stream: str = STREAM
    run: str | None = None
    """None: the only one that there is."""

    def __str__(self) -> str:
        # Who may read a log need not know the password.
        places = ",".join(
            server.rpartition("@")[2].partition("://")[2] or server.rpartition("@")[2] for server in self.servers
        )
        return f"nats://{places}/{self.run or ''}"


def parse_address(text: str) -> Address:
    """Understand an address as it was typed.

    Raises:
        OptionError: it is none.
    """
    try:
        parts = urlsplit(text)
        query = parse_qs(parts.query, strict_parsing=bool(parts.query))
    except ValueError:
        raise _problem(text) from None
    stream = query.pop("stream", [STREAM])[-1]
    if parts.scheme not in SCHEMES or parts.fragment or query:
        raise _problem(text)
    return Address(parse_servers(text.partition("?")[0]), check_stream(stream), unquote(parts.path.strip("/")) or None)


def parse_servers(text: str) -> tuple[str, ...]:
    """The servers of an address or of a list like `nats://a:4222,nats://b:4222`.

    Raises:
        OptionError: one of them is none.
    """
    scheme, separator, rest = text.partition("://")
    places = [place.partition("://")[2] or place for place in rest.partition("/")[0].split(",")] if separator else []
    if "://" in rest:
        places = [part.rpartition("://")[2] for part in text.split(",")]
    if scheme not in SCHEMES or not places or not all(map(_SERVER.fullmatch, places)):
        raise _problem(text)
    return tuple(f"{scheme}://{_with_password(place)}" for place in places)


def check_stream(name: str) -> str:
    """The name of a stream, if it can be one.

    Raises:
        OptionError: it cannot.
    """
    if not _STREAM_NAME.fullmatch(name):
        raise OptionError(f"a stream's name has up to 64 letters, digits, - and _: {name!r:.100} is none")
    return name


def _with_password(place: str) -> str:
    user, at, host = place.rpartition("@")
    password = os.environ.get(PASSWORD)
    return f"{user}:{password}@{host}" if at and ":" not in user and password else place


def _problem(text: str) -> OptionError:
    shown = re.sub(r"[^/@]*@", "", text)
    return OptionError(f"the address {shown!r:.200} is not nats://host:port/run, with ?stream=NAME if it has a name")
