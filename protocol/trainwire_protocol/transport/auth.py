"""CURVE keys: how sockets over TCP are encrypted, and by whom they may be used.

CURVE is ZeroMQ's encryption and authentication (rfc.zeromq.org/spec/26); keys are in its Z85 text form. Every TCP
socket of Trainwire uses it. Keys are never logged.
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

from trainwire_protocol.transport.polling import Monitor

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


WORD_SECONDS: Final = 10.0
"""How often refused clients are told of, at most."""

EVENTS: Final = (
    zmq.EVENT_ACCEPTED
    | zmq.EVENT_DISCONNECTED
    | zmq.EVENT_HANDSHAKE_SUCCEEDED
    | zmq.EVENT_HANDSHAKE_FAILED_AUTH
    | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL
    | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL
)

OTHER_PROTOCOL: Final = "speaks another protocol"

NO_KEY: Final = "showed no key"

REASONS: Final[dict[int, str]] = {
    zmq.PROTOCOL_ERROR_ZMTP_CRYPTOGRAPHIC: "has a wrong key of this publisher",
    zmq.PROTOCOL_ERROR_ZMTP_MECHANISM_MISMATCH: NO_KEY,
}
"""By the value of the event `HANDSHAKE_FAILED_PROTOCOL`."""

_log = logging.getLogger("trainwire")

# pyzmq would log the keys of clients.
_silent = logging.Logger("silent", logging.CRITICAL + 1)


class Authenticator:
    """Lets in clients whose key is on the list to the sockets of a context; counts the others."""

    def __init__(self, context: zmq.asyncio.Context, keys: ServerKeys) -> None:
        """Begin at once, on the running loop."""
        self._context, self.keys = context, keys
        self._tallies: dict[zmq.Socket[Any], _Tally] = {}
        self._monitors: dict[zmq.Socket[Any], Monitor] = {}
        self._told, self._last_word = 0, -WORD_SECONDS
        self._authenticator = AsyncioAuthenticator(context, log=_silent)
        self._authenticator.start()
        self._authenticator.configure_curve_callback("*", self)

    @property
    def refused(self) -> int:
        """Connections that were hung up on before they had shown a key that is on the list."""
        return sum(tally.refused for tally in self._tallies.values())

    def callback(self, domain: str, key: bytes) -> bool:  # noqa: ARG002  # pyzmq calls it so
        """Whether the client with this public key, as bytes in Z85, may connect."""
        return key.decode() in self.keys.allowed

    def may_command(self, key: str) -> bool:
        """Whether the client with this public key may send commands."""
        return key in self.keys.allowed - self.keys.read_only

    def guard(self, socket: zmq.Socket[Any]) -> None:
        """Watch who comes to a socket that is about to be bound."""
        tally = self._tallies[socket] = _Tally()
        self._monitors[socket] = Monitor(self._context, socket, EVENTS, partial(self._count, tally))

    def leave(self, socket: zmq.Socket[Any]) -> None:
        """Watch a socket no longer: it is about to be closed."""
        self._monitors.pop(socket).close()

    def stop(self) -> None:
        """Let nobody in any more."""
        for socket in list(self._monitors):
            self.leave(socket)
        self._authenticator.stop()

    def _count(self, tally: _Tally, event: int, value: int) -> None:
        tally.count(event, value)
        refused = self.refused
        if refused > self._told and time.monotonic() - self._last_word >= WORD_SECONDS:
            self._told, self._last_word = refused, time.monotonic()
            _log.warning("refused a client that %s (%d refused so far)", tally.reason, refused)


class _Tally:
    """Counts the connections to one socket, and how they ended."""

    def __init__(self) -> None:
        self.reason = OTHER_PROTOCOL
        """Why the last client was refused."""
        self._accepted = self._succeeded = self._failed = 0
        self._shaking: dict[int, float] = {}
        """When each connection came that may still be showing its key."""

    @property
    def refused(self) -> int:
        """How many never showed a good key.

        libzmq hangs up on what is not its protocol without a word, and does not tell which connection it was that
        succeeded: these are what is left over, once those that may still be shaking hands are taken off.
        """
        earliest = time.monotonic() - HANDSHAKE_SECONDS
        shaking = sum(since > earliest for since in self._shaking.values())
        return max(self._failed, self._accepted - self._succeeded - shaking)

    def count(self, event: int, value: int) -> None:
        """Take note of an event of libzmq's socket monitor."""
        before = self.refused
        if event == zmq.EVENT_ACCEPTED:
            self._accepted += 1
            self._shaking[value] = time.monotonic()
        elif event == zmq.EVENT_DISCONNECTED:
            self._shaking.pop(value, None)
        elif event == zmq.EVENT_HANDSHAKE_SUCCEEDED:
            self._succeeded += 1
            self._shaking.pop(next(iter(self._shaking), -1), None)
        else:
            self._failed += 1
        if self.refused > before:
            self.reason = _reason(event, value)


def _reason(event: int, value: int) -> str:
    if event == zmq.EVENT_HANDSHAKE_FAILED_AUTH:
        return "has a key that is not on the list"
    if event == zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL:
        return NO_KEY
    return REASONS.get(value, OTHER_PROTOCOL) if event == zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL else OTHER_PROTOCOL
