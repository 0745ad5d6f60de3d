"""The follower of one rank: it reads the run from the end of the relay's copy to the end of the run."""

from __future__ import annotations

import logging
import time
from typing import Final

import zmq.asyncio

from trainwire_protocol.errors import CursorAheadError
from trainwire_protocol.events import CHANNELS
from trainwire_protocol.journal.run_folder import RENEWAL_SECONDS
from trainwire_protocol.subscription.subscription import Subscription
from trainwire_protocol.transport.polling import CoalescingSelector
from trainwire_protocol.wire import Cursor
from trainwire_sinks.relay.copy_server import CopyServer
from trainwire_sinks.relay.sources import FoundRank
from trainwire_sinks.runtime.source import Acknowledger

TICK_SECONDS: Final = 0.25
"""Interval between calls of `RankFollower.tick`, which is also the longest delay of a heartbeat."""

LEASE_INTERVAL: Final = 2 * RENEWAL_SECONDS
"""Interval at which the lease is renewed, in seconds; it is valid for half a minute."""

HIGH_WATER_MARK: Final = 16
"""Maximum number of live messages of a rank that wait in the relay. The trainer queues more; lost ones are fetched."""

READ_AHEAD_BYTES: Final = 64 << 10
"""Maximum number of bytes of a rank that are read ahead of writing; small, since all ranks may lag at once."""

logger = logging.getLogger("trainwire")


class RankFollower:
    """Reads the batches of one rank and passes them to its copy's server."""

    def __init__(
        self,
        found: FoundRank,
        server: CopyServer,
        context: zmq.asyncio.Context,
        selector: CoalescingSelector,
        name: str,
        give_up: float | None = None,
    ) -> None:
        """Prepare to follow a rank.

        Args:
            found: the rank, and where to read it.
            server: receives the batches.
            context: the context of the sockets.
            selector: polls the live sockets.
            name: the name by which the trainer knows the relay.
            give_up: seconds after which a silent trainer on another host is given up.
        """
        self.found, self.server = found, server
        self._context, self._selector = context, selector
        self._name, self._give_up = name, give_up
        self._open: Subscription | None = None
        self._renewal_due = 0.0

    async def run(self) -> None:
        """Follow the rank to the end of its run.

        Raises:
            IncompleteError: the rest of the run cannot be read.
        """
        await self.server.begin(self.found.world_size)
        cursor: Cursor | None = self.server.copy.cursor
        while cursor is not None:
            cursor = await self._follow_from(cursor)
        await self.server.end(self.found.process)

    def must_move_to(self, found: FoundRank) -> bool:
        """Return whether a later attempt was found at an address that this follower does not find by itself."""
        there, here = found.target.connection, self.found.target.connection
        return found.attempt > self.found.attempt and there is not None and there != here

    def tick(self) -> None:
        """Forward the trainer's heartbeat and renew the lease, as they become due."""
        if self._open is None:
            return
        self.server.forward_heartbeat(self._open.heartbeat)
        now = time.monotonic()
        if now > self._renewal_due:
            self._renewal_due = now + LEASE_INTERVAL
            self.server.renew_lease()

    async def _follow_from(self, cursor: Cursor) -> Cursor | None:
        """Read to the end; return where to continue if the trainer's disk has lost what is copied here."""
        subscription = Subscription(
            self.found.target, rank=self.found.rank, channels=CHANNELS, cursor=cursor, give_up=self._give_up,
            name=self._name, context=self._context, high_water_mark=HIGH_WATER_MARK, read_ahead_bytes=READ_AHEAD_BYTES,
            selector=self._selector, raw=True,
        )  # fmt: skip
        try:
            async with subscription, Acknowledger(subscription, lambda: self.server.copy.cursor) as acknowledger:
                self.server.command = subscription.command
                self._open = subscription
                await self._copy_batches(subscription, acknowledger)
        except CursorAheadError as error:
            # The next attempt supersedes what the trainer's disk has lost.
            logger.warning("%s: %s; continuing with the next attempt", self.found.target, error)
            return Cursor(self.server.copy.cursor.attempt + 1, -1)
        finally:
            self._open = self.server.command = None
        return None

    async def _copy_batches(self, subscription: Subscription, acknowledger: Acknowledger) -> None:
        while True:
            try:
                batches = await subscription.ready()
            except StopAsyncIteration:
                break
            await self.server.append(batches)
            if self.server.copy.ended:
                # The trainer may be waiting for this acknowledgement before it exits.
                await acknowledger.send_now()
        await acknowledger.send_now()
