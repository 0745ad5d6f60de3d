"""Who is let in over TCP: clients whose key is on the publisher's list. The others are counted, and told of."""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from typing import Any, Final

import zmq
import zmq.asyncio
from zmq.auth.asyncio import AsyncioAuthenticator
from zmq.utils.monitor import parse_monitor_message

from trainwire_protocol.curve import HANDSHAKE_SECONDS, ServerKeys

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
        self._watching: dict[zmq.Socket[Any], tuple[asyncio.Task[None], zmq.asyncio.Socket]] = {}
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
        address = f"inproc://door-{secrets.token_hex(8)}"
        socket.monitor(address, EVENTS)
        events = self._context.socket(zmq.PAIR)
        # Were it limited, a flood of connections would make libzmq's own thread wait for this loop.
        events.set(zmq.RCVHWM, 0)
        events.connect(address)
        self._tallies[socket] = _Tally()
        self._watching[socket] = asyncio.ensure_future(self._watch(events, self._tallies[socket])), events

    def leave(self, socket: zmq.Socket[Any]) -> None:
        """Watch a socket no longer: it is about to be closed."""
        task, events = self._watching.pop(socket)
        # First of all: libzmq's own thread would wait for ever for events to be taken.
        socket.disable_monitor()
        task.cancel()
        events.close(linger=0)

    def stop(self) -> None:
        """Let nobody in any more."""
        for socket in list(self._watching):
            self.leave(socket)
        self._authenticator.stop()

    async def _watch(self, events: zmq.asyncio.Socket, tally: _Tally) -> None:
        while True:
            event = parse_monitor_message(await events.recv_multipart())
            tally.count(event["event"], event["value"])
            self._tell(tally)

    def _tell(self, tally: _Tally) -> None:
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
