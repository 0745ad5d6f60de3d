"""Follows one rank's stream: what is live while nothing is missing before it, else the history."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator
from typing import Final

from trainwire_protocol.errors import (
    CursorAheadError,
    IncompleteError,
    MalformedBatchError,
)
from trainwire_protocol.journal.attempts import kept_ranges
from trainwire_protocol.subscription.history import History
from trainwire_protocol.subscription.source import Source
from trainwire_protocol.transport.live import Heartbeat, LiveFeed, read_heartbeat
from trainwire_protocol.wire import HEARTBEAT, Batch, Cursor

WORD_SECONDS: Final = 60.0
"""How often a reader that waits says so."""


class Patience:
    """Waits for something to be heard: says so now and then, and gives up in the end."""

    def __init__(self, what: str, give_up: float | None) -> None:
        self._what = what
        self._give_up = give_up
        self._last_word: float | None = None
        self.reason = ""
        """Why nothing is heard, if somebody knows."""
        self.reward()

    def reward(self) -> None:
        """Something was heard."""
        self._last_heard = time.monotonic()
        self._last_word = None
        self.see_sign()

    def see_sign(self) -> None:
        """Something shows that there is somebody, though nothing is heard."""
        self._last_sign = time.monotonic()
        self.silence = 0.0
        """Seconds without any sign, as of the last wait."""

    def wait(self, why: str, *, at_once: bool = False) -> None:
        """Nothing was heard; `at_once` says so without waiting a minute.

        Raises:
            IncompleteError: it has been so for too long.
        """
        why += f" ({self.reason})" if self.reason else ""
        now = time.monotonic()
        self.silence = now - self._last_sign
        is_over = self._give_up is not None and now - self._last_heard > self._give_up
        since = self._last_word if self._last_word is not None else self._last_heard
        if (at_once and self._last_word is None) or (now - since > WORD_SECONDS and not is_over):
            self._last_word = now
            _log.warning("%s: %s; waiting (--give-up SECONDS ends this)", self._what, why)
        if is_over:
            raise IncompleteError(f"{self._what}: {why}; gave up after {self._give_up:g} s")


POLL_SECONDS: Final = 0.1
"""How often the history is looked at where there is no live feed."""

SILENCE_SECONDS: Final = 0.5
"""How long a live feed may be silent before that counts as silence."""

END_TRIES: Final = 3
"""How often a publisher is asked, after its last event, whether a later attempt follows."""

ANSWER_SECONDS: Final = 10.0
"""How long a publisher that is not followed is asked for what comes after the attempt that was read."""

_log = logging.getLogger("trainwire")


class Follower:
    """Yields the batches behind a cursor until the run is over."""

    def __init__(
        self,
        source: Source,
        cursor: Cursor | None,
        *,
        follow: bool = True,
        skip_superseded: bool = False,
        give_up: float | None = None,
    ) -> None:
        """Set the place to begin at; None is the present, for live views."""
        self.gaps = 0
        """Places at which wanted events are in no source any more; reading goes on behind them."""
        self.malformed = 0
        """Events of batches that could not be read, and were skipped."""
        self.heartbeat: Heartbeat | None = None
        """The last one that was heard; none is while history is read."""
        self._source = source
        self._channels = frozenset(source.wanted.channels)
        self._cursor = self._given = cursor or Cursor(0, -1)
        self._follow, self._skip_superseded = follow, skip_superseded
        self._kept: dict[int, int | None] | None = None
        self._ended = self._is_dead = False
        self._from_now = self._is_view = cursor is None
        self._shown = Cursor(0, -1)
        self._patience = Patience(str(source.wanted.target), give_up if follow else ANSWER_SECONDS)
        self._renewed: float | None = None
        self._joined: LiveFeed | None = None

    @property
    def silence(self) -> float:
        """Seconds for which no sign of the publisher was seen; 0 as long as there are any."""
        return self._patience.silence

    async def batches(self) -> AsyncIterator[Batch]:
        """Every wanted batch, in order, once.

        Raises:
            TargetError: there is no run, and none is to be waited for.
            IncompleteError: there is more, but it cannot be had.
            CursorAheadError: the record ends before the cursor, and goes on in a later attempt.
            UnsupportedVersionError: a newer major version is spoken there.
        """
        history = await self._wait_for_run()
        while True:
            async for batch in self._attempt(history):
                yield batch
            following = [number for number in await self._all_attempts(history) if number > self._cursor.attempt]
            self._check_cursor(history, goes_on=bool(following))
            if not following:
                self._tell_death()
                return
            self._cursor = Cursor(min(following), -1)

    async def _wait_for_run(self) -> History:
        while True:
            history = await self._source.open()
            attempts = await self._attempts(history) if history else {}
            if history and attempts:
                break
            if not self._follow:
                raise self._source.nothing_there(self._patience.reason)
            self._patience.wait("no run has begun there", at_once=True)
            await asyncio.sleep(POLL_SECONDS)
        self._patience.reward()
        if self._given.seq >= 0 and self._given.attempt not in attempts:
            raise CursorAheadError(f"the record has no attempt {self._given.attempt}, and was read up to there")
        if self._skip_superseded:
            kept = kept_ranges(attempts)
            self._kept = {number: kept.get(number, -1) for number in attempts}
        if self._from_now:
            self._cursor = Cursor(max(attempts), -1)
        return history

    def _check_cursor(self, history: History, *, goes_on: bool) -> None:
        """See, when the first attempt is over, whether the record holds what was read of it before."""
        cursor = self._given
        if cursor.seq < 0 or cursor != self._cursor or history.head is None or history.head >= cursor.seq:
            return
        told = (
            f"the record of attempt {cursor.attempt} ends at seq {history.head}, and was read up to {cursor.seq}: "
            "its disk has lost the end"
        )
        if goes_on:
            raise CursorAheadError(told)
        _log.warning("%s: %s", self._source.wanted.target, told)

    async def _all_attempts(self, history: History) -> dict[int, Cursor | None]:
        """The attempts when one is over, for sure unless it was ended, and nobody may be there to ask any more."""
        tries = 0
        while True:
            try:
                return await history.attempts()
            except TimeoutError:
                tries += 1
                if (self._ended or history.ended) and tries == END_TRIES:
                    return {}
                self._patience.wait("its publisher does not answer")

    async def _attempts(self, history: History) -> dict[int, Cursor | None]:
        try:
            return await history.attempts()
        except TimeoutError as error:
            self._patience.reason = str(error)
            return {}

    async def _attempt(self, history: History) -> AsyncIterator[Batch]:
        """What the present attempt records, until it is over."""
        self._ended = self._is_dead = history.ended = False
        if self._from_now:
            await self._skip_to_now(history)
        # Once its last batch came live, nothing was missing before it, and its publisher need not be there any more.
        while not self._ended:
            # Asked before reading: what can be read after an attempt is over is all of it.
            over = await self._is_over(history)
            async for batch in self._catch_up(history, over):
                yield batch
            if over or history.ended or self._ended:
                self._is_dead = not (history.ended or self._ended or history.is_released)
                self._check_end(history)
                return
            if not self._follow:
                return
            async for batch in self._listen(history):
                yield batch

    def _check_end(self, history: History) -> None:
        """See whether an attempt that ended by itself has its end in the record."""
        if history.is_released and not (history.ended or self._ended):
            self.gaps += 1
            _log.warning("%s: the end of attempt %d is missing", self._source.wanted.target, self._cursor.attempt)

    def _tell_death(self) -> None:
        """Say so if the last attempt has come to no end of its own, and none follows."""
        if self._is_dead and self._follow:
            told = "the run has died: the process of its last attempt is gone, and has recorded no end"
            _log.warning("%s: %s", self._source.wanted.target, told)

    async def _skip_to_now(self, history: History) -> None:
        self._from_now = False
        live = await self._connect()
        first = await live.receive(2 * SILENCE_SECONDS + 1) if live else None
        if first:
            self._cursor = Cursor(first.header.attempt, first.header.seq - 1)
            return
        async for _ in self._catch_up(history, over=False):
            pass

    async def _catch_up(self, history: History, over: bool) -> AsyncIterator[Batch]:
        """What the history has behind the cursor."""
        while batches := await self._read(history, over):
            self._patience.reward()
            for batch in batches:
                if self._take(batch):
                    yield batch
            # To read on keeps a busy reader from ending, or from going live; what comes into a log is had there alone.
            if history.is_at_end and not over and not (self._follow and self._source.wanted.target.archive):
                break
        for damage in history.damages:
            _log.warning("%s: skipped damaged %s", self._source.wanted.target, damage)
        history.damages.clear()

    async def _listen(self, history: History) -> AsyncIterator[Batch]:
        """What comes live, until nothing wanted does for a while or something is missing."""
        live = await self._connect()
        if live is None:
            self._patience.wait(self._source.silence)
            await asyncio.sleep(POLL_SECONDS)
            return
        # Between the history and a connection that is new something may have come.
        quiet_seconds = history.quiet_seconds if live is self._joined else SILENCE_SECONDS
        self._joined, last_taken = live, time.monotonic()
        # Heartbeats alone do not say whether the attempt is over: its end is on a channel.
        while time.monotonic() - last_taken < quiet_seconds:
            batch = await live.receive(SILENCE_SECONDS)
            if batch is None:
                self._patience.wait("nothing is heard of its publisher")
                continue
            self._patience.reward()
            header = batch.header
            if header.channel == HEARTBEAT:
                self.heartbeat = read_heartbeat(batch) or self.heartbeat
            if header.unjournaled:
                if self._is_new_to_view(batch) and live.is_readable(batch):
                    yield batch
                continue
            if header.attempt > self._cursor.attempt or (
                header.attempt == self._cursor.attempt and not batch.follows(self._cursor.seq, self._channels)
            ):
                return
            if header.channel == HEARTBEAT or batch.cursor <= self._cursor:
                continue
            if not live.is_readable(batch):
                return
            if self._take(batch):
                yield batch
                last_taken = time.monotonic()
                if header.last:
                    self._ended = True
                    return

    def _take(self, batch: Batch) -> bool:
        """Whether the batch is to be delivered; the cursor moves past it."""
        header = batch.header
        if header.channel not in self._channels or batch.cursor <= self._cursor:
            return False
        if not batch.follows(self._cursor.seq, self._channels):
            self.gaps += 1
            _log.warning(
                "%s: events between %d and %d are missing", self._source.wanted.target, self._cursor.seq, header.seq
            )
        self._cursor = batch.cursor
        return batch.cursor > self._shown and self._is_readable(batch) and self._is_kept(batch)

    def _is_readable(self, batch: Batch) -> bool:
        if self._source.wanted.as_sent:
            return True
        try:
            self.malformed += batch.malformed
        except MalformedBatchError as error:
            self.malformed += batch.header.count
            _log.warning("%s: skipped %s", self._source.wanted.target, error)
            return False
        return True

    def _is_new_to_view(self, batch: Batch) -> bool:
        """Whether a batch that no disk has taken is to be shown: live views alone get it, and only once."""
        is_new = self._is_view and batch.header.channel in self._channels and batch.cursor > self._shown
        if is_new:
            self._shown = batch.cursor
        return is_new

    def _is_kept(self, batch: Batch) -> bool:
        limit = self._kept.get(batch.header.attempt) if self._kept else None
        return limit is None or batch.cursor.seq <= limit

    async def _connect(self) -> LiveFeed | None:
        with contextlib.suppress(TimeoutError):
            return await self._source.connect(self._cursor.attempt)
        return None

    async def _is_over(self, history: History) -> bool:
        try:
            over = await history.is_over(self._cursor.attempt)
        except TimeoutError:
            return False
        if history.renewed != self._renewed:
            self._renewed = history.renewed
            self._patience.see_sign()
        return over

    async def _read(self, history: History, over: bool) -> list[Batch]:
        try:
            return await history.read(self._cursor, final=over)
        except TimeoutError:
            if self._follow:
                return []
            raise IncompleteError(f"{self._source.wanted.target}: its publisher does not answer") from None
