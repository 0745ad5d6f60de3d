"""Encryption and authentication over TCP: CURVE keys, and the authenticator that checks those of clients.

CURVE is ZeroMQ's security mechanism (rfc.zeromq.org/spec/26). Keys are in its Z85 text form. Every TCP socket of
Trainwire uses it. Keys are never logged.
"""

from __future__ import annotations

import logging
import struct
import time
from functools import partial
from typing import Any, Final, NamedTuple

import zmq
import zmq.asyncio
from zmq.auth.asyncio import AsyncioAuthenticator
from zmq.utils import z85

from trainwire_protocol.transport.polling import SocketMonitor

HANDSHAKE_SECONDS: Final = 10.0
"""Time within which a connection must complete the handshake; otherwise it is closed."""

HEARTBEAT_INTERVAL_SECONDS: Final = 5.0
"""Interval of ZeroMQ's own heartbeats on a client's connection, and the timeout of a connection attempt."""

HEARTBEAT_TIMEOUT_SECONDS: Final = 15.0
"""A client reconnects after a heartbeat goes unanswered for this time; libzmq answers even while a program computes."""

WARNING_INTERVAL_SECONDS: Final = 10.0
"""Minimum time between two warnings about refused clients."""

MONITORED_EVENTS: Final = (
    zmq.EVENT_ACCEPTED
    | zmq.EVENT_DISCONNECTED
    | zmq.EVENT_HANDSHAKE_SUCCEEDED
    | zmq.EVENT_HANDSHAKE_FAILED_AUTH
    | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL
    | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL
)

_OTHER_PROTOCOL: Final = "uses another protocol"
_NO_KEY: Final = "sent no key"
_EVENT_REASONS: Final[dict[int, str]] = {
    zmq.EVENT_HANDSHAKE_FAILED_AUTH: "has a key that is not on the list",
    zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL: _NO_KEY,
}
_PROTOCOL_REASONS: Final[dict[int, str]] = {
    zmq.PROTOCOL_ERROR_ZMTP_CRYPTOGRAPHIC: "has the wrong public key for this publisher",
    zmq.PROTOCOL_ERROR_ZMTP_MECHANISM_MISMATCH: _NO_KEY,
}
"""The reason for each value of the event `HANDSHAKE_FAILED_PROTOCOL`."""

_log = logging.getLogger("trainwire")

# pyzmq would log the keys of clients.
_silent_log = logging.Logger("silent", logging.CRITICAL + 1)


class KeyPair(NamedTuple):
    """A public key and its secret key."""

    public: str
    secret: str

    @classmethod
    def make(cls) -> KeyPair:
        """Generate a new pair."""
        public, secret = zmq.curve_keypair()
        return cls(public.decode(), secret.decode())

    def __repr__(self) -> str:
        return f"KeyPair(public={self.public!r})"


class ServerKeys(NamedTuple):
    """The keys that a publisher needs to serve over TCP."""

    server: KeyPair
    allowed: frozenset[str]
    """Public keys of the clients that may connect."""
    read_only: frozenset[str] = frozenset()
    """Those of the allowed keys that may not send commands."""


class ClientKeys(NamedTuple):
    """The keys that a client needs to connect over TCP."""

    server: str
    """The publisher's public key."""
    client: KeyPair


def is_key(value: object) -> bool:
    """Return whether a value is a key in Z85 form: 40 characters for 32 bytes."""
    try:
        return isinstance(value, str) and len(z85.decode(value)) == 32
    except (ValueError, KeyError, struct.error):
        return False


def secure_server(socket: zmq.Socket[Any], keys: ServerKeys) -> None:
    """Make a socket accept only encrypted connections; call it before the socket is bound."""
    socket.curve_server = True
    socket.curve_publickey, socket.curve_secretkey = keys.server.public.encode(), keys.server.secret.encode()
    socket.handshake_ivl = int(HANDSHAKE_SECONDS * 1000)


def secure_client(socket: zmq.Socket[Any], keys: ClientKeys | None) -> None:
    """Make a socket encrypt its connections; call it before the socket is connected. Without keys it does nothing.

    It also enables heartbeats, since a network can drop a connection without notifying either side.
    """
    if keys:
        socket.heartbeat_ivl = int(HEARTBEAT_INTERVAL_SECONDS * 1000)
        socket.heartbeat_timeout = int(HEARTBEAT_TIMEOUT_SECONDS * 1000)
        socket.connect_timeout = int(HEARTBEAT_INTERVAL_SECONDS * 1000)
        socket.handshake_ivl = int(HANDSHAKE_SECONDS * 1000)
        socket.curve_serverkey = keys.server.encode()
        socket.curve_publickey, socket.curve_secretkey = keys.client.public.encode(), keys.client.secret.encode()


class Authenticator:
    """Accepts clients with an allowed key on the sockets of a context, and counts the connections it refuses."""

    def __init__(self, context: zmq.asyncio.Context, keys: ServerKeys) -> None:
        """Start on the running loop."""
        self._context, self.keys = context, keys
        self._connections: dict[zmq.Socket[Any], _ConnectionCounter] = {}
        self._monitors: dict[zmq.Socket[Any], SocketMonitor] = {}
        self._reported, self._last_warning = 0, -WARNING_INTERVAL_SECONDS
        self._authenticator = AsyncioAuthenticator(context, log=_silent_log)
        self._authenticator.start()
        self._authenticator.configure_curve_callback("*", self)

    @property
    def refused(self) -> int:
        """Number of connections that were closed because they did not authenticate with an allowed key."""
        return sum(connections.refused for connections in self._connections.values())

    def callback(self, domain: str, key: bytes) -> bool:  # noqa: ARG002  # pyzmq's interface
        """Return whether the client with this public key, as bytes in Z85, may connect."""
        return key.decode() in self.keys.allowed

    def may_command(self, key: str) -> bool:
        """Return whether the client with this public key may send commands."""
        return key in self.keys.allowed - self.keys.read_only

    def watch(self, socket: zmq.Socket[Any]) -> None:
        """Count the connections to a socket; call it before the socket is bound."""
        connections = self._connections[socket] = _ConnectionCounter()
        self._monitors[socket] = SocketMonitor(
            self._context, socket, MONITORED_EVENTS, partial(self._count, connections)
        )

    def unwatch(self, socket: zmq.Socket[Any]) -> None:
        """Stop counting; call it before the socket is closed."""
        self._monitors.pop(socket).close()

    def close(self) -> None:
        """Stop; from then on no client can connect."""
        for socket in list(self._monitors):
            self.unwatch(socket)
        self._authenticator.stop()

    def _count(self, connections: _ConnectionCounter, event: int, value: int) -> None:
        connections.count(event, value)
        refused, now = self.refused, time.monotonic()
        if refused > self._reported and now - self._last_warning >= WARNING_INTERVAL_SECONDS:
            self._reported, self._last_warning = refused, now
            _log.warning("refused a client that %s (%d refused so far)", connections.reason, refused)


class _ConnectionCounter:
    """Counts the connections to one socket by their outcome."""

    def __init__(self) -> None:
        self.reason = _OTHER_PROTOCOL
        """Why the last client was refused."""
        self._accepted = self._succeeded = self._failed = 0
        self._handshakes: dict[int, float] = {}
        """For each connection that may still be in its handshake, when it was accepted."""

    @property
    def refused(self) -> int:
        """Number of connections that never authenticated.

        libzmq closes a connection of another protocol without an event, and does not report which connection
        succeeded. So this counts the accepted ones that neither succeeded nor may still be in their handshake.
        """
        earliest = time.monotonic() - HANDSHAKE_SECONDS
        pending = sum(accepted > earliest for accepted in self._handshakes.values())
        return max(self._failed, self._accepted - self._succeeded - pending)

    def count(self, event: int, value: int) -> None:
        """Record an event of libzmq's socket monitor."""
        before = self.refused
        if event == zmq.EVENT_ACCEPTED:
            self._accepted += 1
            self._handshakes[value] = time.monotonic()
        elif event == zmq.EVENT_DISCONNECTED:
            self._handshakes.pop(value, None)
        elif event == zmq.EVENT_HANDSHAKE_SUCCEEDED:
            self._succeeded += 1
            self._handshakes.pop(next(iter(self._handshakes), -1), None)
        else:
            self._failed += 1
        if self.refused > before:
            reasons, number = _EVENT_REASONS, event
            if event == zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL:
                reasons, number = _PROTOCOL_REASONS, value
            self.reason = reasons.get(number, _OTHER_PROTOCOL)
