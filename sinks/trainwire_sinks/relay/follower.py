"""Follows one rank of a run for a relay, from where its copy ends to where the run does."""

from __future__ import annotations

import logging
import time
from typing import Final

import zmq.asyncio

from trainwire_protocol.errors import CursorAheadError
from trainwire_protocol.events import CHANNELS
from trainwire_protocol.journal.run_folder import RENEWAL_SECONDS
from trainwire_protocol.subscription.subscription import Subscription
from trainwire_protocol.transport.polling import Gatherer
from trainwire_protocol.wire import Cursor
from trainwire_sinks.relay.copy_server import CopyServer
from trainwire_sinks.relay.sources import Found
from trainwire_sinks.runtime.source import Acknowledger

BEAT_SECONDS: Final = 0.25
"""How often it is looked whether the trainer has sent a heartbeat."""

WORD_SECONDS: Final = 2 * RENEWAL_SECONDS
"""How often the lease is renewed, and the trainer told how far the copy is: both hold for half a minute."""

HIGH_WATER_MARK: Final = 16
"""Live messages of one rank that wait here. What is more waits at its trainer, and what is dropped there is fetched."""

READ_AHEAD_BYTES: Final = 64 << 10
"""How much of one rank is had before it can be written: all ranks may lag at the same time."""

logger = logging.getLogger("trainwire")


class RankFollower:
    """Follows what was found, and has it served."""

    def __init__(
        self,
        found: Found,
        serving: CopyServer,
        context: zmq.asyncio.Context,
        gatherer: Gatherer,
        name: str,
        give_up: float | None = None,
    ) -> None:
        """Say what to follow.

        Args:
            found: which rank, and where it is.
            serving: takes what is read.
            context: for the sockets.
            gatherer: looks at what comes live.
            name: under which the trainer knows this relay.
            give_up: seconds after which a silent trainer on another host is no longer waited for.
        """
        self.found, self.serving = found, serving
        self._context, self._gatherer = context, gatherer
        self._name, self._give_up = name, give_up
        self._reading: tuple[Subscription, Acknowledger] | None = None
        self._renewal_due = 0.0

    async def run(self) -> None:
        """Follow to the end of the run.

        Raises:
            IncompleteError: there is more, but it cannot be had.
        """
        await self.serving.hold(self.found.world_size)
        cursor: Cursor | None = self.serving.copy.cursor
        while cursor is not None:
            cursor = await self._follow_from(cursor)
        await self.serving.end(self.found.process)

    def is_elsewhere(self, found: Found) -> bool:
        """Whether a later attempt was found, at a place that this does not find by itself."""
        there, here = found.target.connection, self.found.target.connection
        return found.attempt > self.found.attempt and there is not None and there != here

    def beat(self) -> None:
        """Pass the trainer's heartbeats on; renew the lease, and tell the trainer how far the copy is, now and then.

        To be called every `BEAT_SECONDS`.
        """
        if self._reading is None:
            return
        subscription, acknowledger = self._reading
        self.serving.beat(subscription.heartbeat)
        now = time.monotonic()
        if now > self._renewal_due:
            self._renewal_due = now + WORD_SECONDS
            self.serving.renew()
        # Tried again until it is heard: the trainer waits at its end for those alone that it has heard of.
        if now > (subscription.acknowledged or 0.0) + WORD_SECONDS:
            acknowledger.send(self.serving.copy.cursor)

    async def _follow_from(self, cursor: Cursor) -> Cursor | None:
        """Read to the end; or where to read on, if the trainer's disk has lost what is copied here."""
        subscription = Subscription(
            self.found.target, rank=self.found.rank, channels=CHANNELS, cursor=cursor, give_up=self._give_up,
            name=self._name, context=self._context, high_water_mark=HIGH_WATER_MARK, read_ahead_bytes=READ_AHEAD_BYTES,
            gatherer=self._gatherer, as_sent=True,
        )  # fmt: skip
        try:
            async with subscription, Acknowledger(subscription) as acknowledger:
                self.serving.command = subscription.command
                self._reading = subscription, acknowledger
                await self._read(subscription, acknowledger)
        except CursorAheadError as error:
            # What was lost there is superseded by the next attempt, and does no harm here.
            logger.warning("%s: %s; going on with the next attempt", self.found.target, error)
            return Cursor(self.serving.copy.cursor.attempt + 1, -1)
        finally:
            self._reading = self.serving.command = None
        return None

    async def _read(self, subscription: Subscription, acknowledger: Acknowledger) -> None:
        while True:
            try:
                batches = await subscription.ready()
            except StopAsyncIteration:
                break
            await self.serving.take(batches)
            if self.serving.copy.ended:
                # Its trainer may be waiting for this word alone before it goes.
                await acknowledger.send_last(self.serving.copy.cursor)
        await acknowledger.send_last(self.serving.copy.cursor)
