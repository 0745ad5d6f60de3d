"""Follows one rank of a run for a relay, from where its copy ends to where the run does."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from itertools import count
from typing import Final

import zmq.asyncio

from trainwire_protocol.client import Subscription
from trainwire_protocol.errors import CursorAheadError
from trainwire_protocol.events import CHANNELS
from trainwire_protocol.wire import Cursor
from trainwire_sinks.relay.serving import Serving
from trainwire_sinks.relay.sources import Found
from trainwire_sinks.source import Acknowledger

GATHER_SECONDS: Final = 0.02
"""How long batches gather before they are written together."""

BEAT_SECONDS: Final = 0.25
"""How often it is looked whether the trainer has sent a heartbeat."""

BEATS_AN_ACKNOWLEDGEMENT: Final = 4
"""How often, in these, the trainer is told how far the copy is."""

logger = logging.getLogger("trainwire")


@dataclass(frozen=True)
class Following:
    """Follows what was found, and has it served.

    `give_up` is the time in seconds after which a silent trainer on another host is no longer waited for.
    """

    found: Found
    serving: Serving
    context: zmq.asyncio.Context
    name: str
    """Under which the trainer knows this relay."""
    give_up: float | None = None

    async def run(self) -> None:
        """Follow to the end of the run.

        Raises:
            IncompleteError: there is more, but it cannot be had.
        """
        await self.serving.hold(self.found.world_size)
        holding = asyncio.ensure_future(self.serving.keep_held())
        cursor: Cursor | None = self.serving.copy.cursor
        try:
            while cursor is not None:
                cursor = await self._follow_from(cursor)
        finally:
            self.serving.command = None
            holding.cancel()
            await asyncio.gather(holding, return_exceptions=True)
        await self.serving.end(self.found.process)

    async def _follow_from(self, cursor: Cursor) -> Cursor | None:
        """Read to the end; or where to read on, if the trainer's disk has lost what is copied here."""
        subscription = Subscription(
            self.found.target, rank=self.found.rank, channels=CHANNELS, cursor=cursor,
            give_up=self.give_up, name=self.name, context=self.context,
        )  # fmt: skip
        try:
            async with subscription, Acknowledger(subscription) as acknowledger:
                self.serving.command = subscription.command
                beating = asyncio.ensure_future(self._beat(subscription, acknowledger))
                try:
                    await self._read(subscription, acknowledger)
                finally:
                    beating.cancel()
        except CursorAheadError as error:
            # What was lost there is superseded by the next attempt, and does no harm here.
            logger.warning("%s: %s; going on with the next attempt", self.found.target, error)
            return Cursor(self.serving.copy.cursor.attempt + 1, -1)
        return None

    async def _read(self, subscription: Subscription, acknowledger: Acknowledger) -> None:
        while True:
            try:
                batches = await subscription.ready()
            except StopAsyncIteration:
                break
            await self.serving.take(batches)
            if self.serving.copy.ended:
                acknowledger.tell(self.serving.copy.cursor)
            await asyncio.sleep(GATHER_SECONDS)
        await acknowledger.tell_last(self.serving.copy.cursor)

    async def _beat(self, subscription: Subscription, acknowledger: Acknowledger) -> None:
        """Pass heartbeats on, and tell the trainer every now and then how far the copy is."""
        for number in count():
            self.serving.beat(subscription.heartbeat)
            if number % BEATS_AN_ACKNOWLEDGEMENT == 0:
                acknowledger.tell(self.serving.copy.cursor)
            await asyncio.sleep(BEAT_SECONDS)
