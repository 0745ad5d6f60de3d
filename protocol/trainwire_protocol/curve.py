"""Who may connect over TCP: CURVE keys, and the list of clients that a publisher lets in.

CURVE is ZeroMQ's encryption and authentication (rfc.zeromq.org/spec/26); keys are in its Z85 text form. Every TCP
socket of Trainwire uses it. Keys are never logged.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Collection
from typing import Any, Final, NamedTuple

import zmq
import zmq.asyncio
from zmq.auth.asyncio import AsyncioAuthenticator

WORD_SECONDS: Final = 10.0
"""How often refused clients are told of, at most."""

_log = logging.getLogger("trainwire")


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


class ClientKeys(NamedTuple):
    """What a client needs to connect over TCP."""

    server: str
    """The publisher's public key."""
    client: KeyPair


def secure_server(socket: zmq.Socket[Any], keys: ServerKeys) -> None:
    """Have a socket that will be bound take encrypted connections alone."""
    socket.curve_server = True
    socket.curve_publickey, socket.curve_secretkey = keys.server.public.encode(), keys.server.secret.encode()


def secure_client(socket: zmq.Socket[Any], keys: ClientKeys | None) -> None:
    """Have a socket that will be connected encrypt what it sends; without keys it is left as it is."""
    if keys:
        socket.curve_serverkey = keys.server.encode()
        socket.curve_publickey, socket.curve_secretkey = keys.client.public.encode(), keys.client.secret.encode()


class DoorKeeper:
    """Lets in clients whose key is on the list; tells of others, and counts them."""

    def __init__(self, context: zmq.asyncio.Context, allowed: Collection[str]) -> None:
        """Begin at once, on the running loop."""
        self.refused = 0
        """Clients with a key that is not on the list."""
        self._allowed = frozenset(allowed)
        self._last_word = -WORD_SECONDS
        self._authenticator = AsyncioAuthenticator(context, log=logging.getLogger("trainwire.curve"))
        self._authenticator.start()
        self._authenticator.configure_curve_callback("*", self)

    def callback(self, domain: str, key: bytes) -> bool:  # noqa: ARG002  # pyzmq calls it so
        """Whether the client with this public key, as bytes in Z85, may connect."""
        if key.decode() in self._allowed:
            return True
        self.refused += 1
        if time.monotonic() - self._last_word >= WORD_SECONDS:
            self._last_word = time.monotonic()
            _log.warning("refused a client whose key is not on the list (%d so far)", self.refused)
        return False

    def stop(self) -> None:
        """Let nobody in any more."""
        self._authenticator.stop()
