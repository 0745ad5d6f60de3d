"""CURVE keys: how sockets over TCP are encrypted, and by whom they may be used.

CURVE is ZeroMQ's encryption and authentication (rfc.zeromq.org/spec/26); keys are in its Z85 text form. Every TCP
socket of Trainwire uses it. Keys are never logged.
"""

from __future__ import annotations

import struct
from typing import Any, Final, NamedTuple

import zmq
from zmq.utils import z85

HANDSHAKE_SECONDS: Final = 10.0
"""How long a client may take to show its key before it is hung up on."""

PROBE_SECONDS: Final = 5.0
"""How often a client tries whether its connection is whole, and how long it may take to make one."""

SILENCE_SECONDS: Final = 15.0
"""How long nothing may be heard after a try before a connection is made anew: ZeroMQ answers also while a program
computes."""


class KeyPair(NamedTuple):
    """A public key and its secret."""

    public: str
    secret: str

    @classmethod
    def make(cls) -> KeyPair:
        """A new pair."""
        public, secret = zmq.curve_keypair()
        return cls(public.decode(), secret.decode())

    def __repr__(self) -> str:
        return f"KeyPair(public={self.public!r})"


class ServerKeys(NamedTuple):
    """What a publisher needs to serve over TCP."""

    server: KeyPair
    allowed: frozenset[str]
    """Public keys of the clients that may connect."""
    read_only: frozenset[str] = frozenset()
    """Those of them that may not send commands."""


class ClientKeys(NamedTuple):
    """What a client needs to connect over TCP."""

    server: str
    """The publisher's public key."""
    client: KeyPair


def is_key(value: object) -> bool:
    """Whether this is a key in Z85's form: 40 characters for 32 bytes."""
    try:
        return isinstance(value, str) and len(z85.decode(value)) == 32
    except (ValueError, KeyError, struct.error):
        return False


def secure_server(socket: zmq.Socket[Any], keys: ServerKeys) -> None:
    """Have a socket that will be bound take encrypted connections alone."""
    socket.curve_server = True
    socket.curve_publickey, socket.curve_secretkey = keys.server.public.encode(), keys.server.secret.encode()
    socket.handshake_ivl = int(HANDSHAKE_SECONDS * 1000)


def secure_client(socket: zmq.Socket[Any], keys: ClientKeys | None) -> None:
    """Have a socket that will be connected encrypt what it sends; without keys it is left as it is.

    A network may lose a connection without a word to either side. So it is tried now and then, and made anew.
    """
    if keys:
        socket.heartbeat_ivl, socket.heartbeat_timeout = int(PROBE_SECONDS * 1000), int(SILENCE_SECONDS * 1000)
        socket.connect_timeout = int(PROBE_SECONDS * 1000)
        socket.handshake_ivl = int(HANDSHAKE_SECONDS * 1000)
        socket.curve_serverkey = keys.server.encode()
        socket.curve_publickey, socket.curve_secretkey = keys.client.public.encode(), keys.client.secret.encode()
