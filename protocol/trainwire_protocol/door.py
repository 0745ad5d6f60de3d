"""Who is let in over TCP: clients whose key is on the publisher's list. The others are counted, and told of."""

from __future__ import annotations

import logging
import time
from functools import partial
from typing import Any, Final

import zmq
import zmq.asyncio
from zmq.auth.asyncio import AsyncioAuthenticator

from trainwire_protocol.curve import HANDSHAKE_SECONDS, ServerKeys
from trainwire_protocol.monitor import Monitor

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


class DoorKeeper:
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
