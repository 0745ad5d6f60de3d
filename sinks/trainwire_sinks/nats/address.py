"""Addresses of runs in a stream: `nats://host:4222,host:4222/run?stream=name`."""

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
"""Environment variable with the password of the user in an address, so that no command line contains it."""

_STREAM_NAME: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")
_SERVER: Final = re.compile(r"(?:[^@/\s]+@)?(?:[^\s@/:]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]{1,5})?")


@dataclass(frozen=True)
class Address:
    """The servers of one cluster, a stream and a run in it."""

    servers: tuple[str, ...]
    """URLs; one server that answers is enough."""
    stream: str = STREAM
    run: str | None = None
    """The run's name; None for the only run of the stream."""

    def __str__(self) -> str:
        # Without the user and password: addresses appear in logs.
        hosts = (server.rpartition("@")[2].rpartition("://")[2] for server in self.servers)
        return f"nats://{','.join(hosts)}/{self.run or ''}"


def parse_address(text: str) -> Address:
    """Return the address that a user typed.

    Raises:
        OptionError: the address is invalid.
    """
    try:
        parts = urlsplit(text)
        query = parse_qs(parts.query, strict_parsing=bool(parts.query))
    except ValueError:
        raise _invalid(text) from None
    stream = query.pop("stream", [STREAM])[-1]
    if parts.scheme not in SCHEMES or parts.fragment or query:
        raise _invalid(text)
    return Address(parse_servers(text.partition("?")[0]), check_stream(stream), unquote(parts.path.strip("/")) or None)


def parse_servers(text: str) -> tuple[str, ...]:
    """Return the servers of an address or of a list such as `nats://a:4222,nats://b:4222`.

    Raises:
        OptionError: a server is invalid.
    """
    scheme, separator, rest = text.partition("://")
    if "://" in rest:
        hosts = [server.rpartition("://")[2] for server in text.split(",")]
    else:
        hosts = rest.partition("/")[0].split(",") if separator else []
    if scheme not in SCHEMES or not hosts or not all(map(_SERVER.fullmatch, hosts)):
        raise _invalid(text)
    return tuple(f"{scheme}://{_with_password(host)}" for host in hosts)


def check_stream(name: str) -> str:
    """Return the name of a stream if it is valid.

    Raises:
        OptionError: the name is invalid.
    """
    if not _STREAM_NAME.fullmatch(name):
        raise OptionError(f"invalid stream name {name!r:.100}: use at most 64 letters, digits, - and _")
    return name


def _with_password(server: str) -> str:
    user, at, host = server.rpartition("@")
    password = os.environ.get(PASSWORD)
    return f"{user}:{password}@{host}" if at and ":" not in user and password else server


def _invalid(text: str) -> OptionError:
    shown = re.sub(r"[^/@]*@", "", text)
    return OptionError(f"invalid address {shown!r:.200}: use nats://host:port/run, optionally followed by ?stream=NAME")
