"""Follows one rank's stream: takes live batches while nothing before them is missing, and else reads the history."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator
from typing import Final

from trainwire_protocol.errors import CursorAheadError, IncompleteError, MalformedBatchError
from trainwire_protocol.journal.attempts import check_attempt, kept_ranges
from trainwire_protocol.subscription.history import History
from trainwire_protocol.subscription.source import Source
from trainwire_protocol.transport.live import Heartbeat, LiveFeed, read_heartbeat
from trainwire_protocol.wire import HEARTBEAT, START, Batch, Cursor

WARNING_INTERVAL_SECONDS: Final = 60.0
"""Interval at which a waiting reader logs that it is waiting."""

POLL_SECONDS: Final = 0.1
"""Interval at which the history is read if there is no live feed."""

SILENCE_SECONDS: Final = 0.5
"""Time without any message after which a live feed counts as silent."""

END_TRIES: Final = 3
"""Number of times a publisher is asked, after its last event, whether a later attempt follows."""

ANSWER_SECONDS: Final = 10.0
"""Time within which a publisher must report later attempts if the reader does not follow the run."""

_log = logging.getLogger("trainwire")


class Watchdog:
    """Tracks how long a reader has waited: logs a warning each minute, and raises when a time limit is exceeded."""

    def __init__(self, target: str, give_up: float | None) -> None:
        """Start the clock.

        Args:
            target: what is read, for the messages.
            give_up: seconds without data after which `check` raises; None never does.
        """
        self._target, self._give_up = target, give_up
        self._last_warning: float | None = None
        self.reason = ""
        """Why nothing arrives, if it is known; added to the messages."""
        self.reset()

    def reset(self) -> None:
        """Restart the clock, since data has arrived."""
        self._last_data = time.monotonic()
        self._last_warning = None
        self.note_sign_of_life()

    def note_sign_of_life(self) -> None:
        """End the silence without restarting the clock: the publisher is alive, but no data has arrived."""
        self._last_sign = time.monotonic()
        self.silence = 0.0
        """Seconds without a sign of life, as of the last `check`."""

    def check(self, reason: str, *, warn_at_once: bool = False) -> None:
        """Report that no data has arrived, for the given reason; with `warn_at_once`, log it without waiting a minute.

        Raises:
            IncompleteError: the time limit is exceeded.
        """
        reason += f" ({self.reason})" if self.reason else ""
        now = time.monotonic()
        self.silence = now - self._last_sign
        is_over = self._give_up is not None and now - self._last_data > self._give_up
        since = self._last_data if self._last_warning is None else self._last_warning
        if (warn_at_once and self._last_warning is None) or (now - since > WARNING_INTERVAL_SECONDS and not is_over):
            self._last_warning = now
            _log.warning("%s: %s; waiting (use --give-up SECONDS to limit the wait)", self._target, reason)
        if is_over:
            raise IncompleteError(f"{self._target}: {reason}; gave up after {self._give_up:g} s")


class Follower:
    """Yields the batches after a cursor until the run is over."""

    def __init__(
        self,
        source: Source,
        cursor: Cursor | None,
        *,
        follow: bool = True,
        superseded_by: int | None = None,
        last_attempt: int | None = None,
        give_up: float | None = None,
    ) -> None:
        """Prepare to read; see `Subscription` for the arguments. A cursor of None starts at the present."""
        self.gaps = 0
        """Places where events of the requested channels are missing from all sources; reading continues after them."""
        self.malformed = 0
        """Events that could not be decoded, and were skipped."""
        self.heartbeat: Heartbeat | None = None
        """The last one received; none is received while the history is read."""
        self.delivered = cursor or Cursor(0, -1)
        """Position of the last batch that was delivered."""
        self.end: Cursor | None = None
        """Position of an attempt's end, once everything of the requested channels up to it was delivered."""
        self._source = source
        self._target = source.options.target
        self._channels = frozenset(source.options.channels)
        self._cursor = self._start = cursor or START
        self._follow, self._superseded_by, self._last_attempt = follow, superseded_by, last_attempt
        self._kept: dict[int, int | None] = {}
        """For attempts of which superseded events are left out, the last seq that is kept; None keeps all."""
        self._ended = self._is_dead = self._is_unread = False
        self._from_now = self._is_view = cursor is None
        self._shown = Cursor(0, -1)
        """End of the unjournaled batches that were delivered to a live view."""
        self._watchdog = Watchdog(str(self._target), give_up if follow else ANSWER_SECONDS)
        self._lease_renewed: float | None = None
        self._previous_live: LiveFeed | None = None

    @property
    def silence(self) -> float:
        """Seconds without a sign of life of the publisher; 0 while there are signs."""
        return self._watchdog.silence

    async def batches(self) -> AsyncIterator[Batch]:
        """Yield every batch of the requested channels, in order, once.

        Raises:
            TargetError: there is no run, and the reader does not wait for one.
            IncompleteError: more was recorded, but it is unavailable.
            CursorAheadError: the journal ends before the cursor, and continues with a later attempt.
            UnsupportedVersionError: a newer major version recorded or published it.
        """
        history = await self._wait_for_run()
        while True:
            async for batch in self._read_attempt(history):
                yield batch
            later = [number for number in await self._final_attempts(history) if number > self._cursor.attempt]
            self._check_start(history, is_continued=bool(later))
            later = [number for number in later if self._is_wanted(number)]
            if not later:
                if self._is_dead and self._follow and self._last_attempt is None:
                    message = "the run has died: the process of its last attempt is gone and recorded no end"
                    _log.warning("%s: %s", self._target, message)
                return
            self._cursor = Cursor(min(later), -1)

    async def _wait_for_run(self) -> History:
        while True:
            history = await self._source.open()
            attempts: dict[int, Cursor | None] = {}
            if history:
                try:
                    attempts = await history.attempts()
                except TimeoutError as error:
                    self._watchdog.reason = str(error)
            if history and attempts:
                break
            if not self._follow:
                raise self._source.no_run_error(self._watchdog.reason)
            self._watchdog.check("the run has not started", warn_at_once=True)
            await asyncio.sleep(POLL_SECONDS)
        self._watchdog.reset()
        if self._start.seq >= 0 and self._start.attempt not in attempts:
            raise CursorAheadError(f"the journal has no attempt {self._start.attempt}, but was read up to it")
        if self._last_attempt is not None:
            check_attempt(self._last_attempt, attempts, self._target)
        if self._superseded_by is not None:
            earlier = {number: origin for number, origin in attempts.items() if number <= self._superseded_by}
            kept = kept_ranges(earlier)
            self._kept = {number: kept.get(number, -1) for number in earlier}
        wanted = [number for number in attempts if self._is_wanted(number)]
        if self._from_now:
            self._cursor = Cursor(max(wanted), -1)
        elif self._cursor == START:
            self._cursor = Cursor(min(wanted), -1)
        return history

    def _is_wanted(self, attempt: int) -> bool:
        """Return whether any events of an attempt are to be read."""
        is_later = self._last_attempt is not None and attempt > self._last_attempt
        return not is_later and self._kept.get(attempt) != -1

    async def _final_attempts(self, history: History) -> dict[int, Cursor | None]:
        """Return the attempts once one is over.

        Waits for a publisher that does not answer; after the attempt's last event only for `END_TRIES`, since then the
        publisher may have ended.
        """
        tries = 0
        while True:
            try:
                return await history.attempts()
            except TimeoutError:
                tries += 1
                if (self._ended or history.ended) and tries == END_TRIES:
                    return {}
                self._watchdog.check("its publisher does not answer")

    def _check_start(self, history: History, *, is_continued: bool) -> None:
        """Check, once the first attempt is over, that its journal reaches the cursor that the reader started from."""
        cursor = self._start
        if cursor.seq < 0 or cursor != self._cursor or history.head is None or history.head >= cursor.seq:
            return
        message = (
            f"the journal of attempt {cursor.attempt} ends at seq {history.head}, but was read up to {cursor.seq}: "
            "its disk has lost data"
        )
        if is_continued:
            raise CursorAheadError(message)
        _log.warning("%s: %s", self._target, message)

    async def _read_attempt(self, history: History) -> AsyncIterator[Batch]:
        """Yield what the cursor's attempt records, until it is over."""
        self._ended = self._is_dead = history.ended = False
        if self._from_now:
            await self._skip_to_now(history)
        # When the attempt's last event arrived live, nothing is missing, and its publisher may be gone.
        while not self._ended:
            # Ask before reading, so that after the end of an attempt all of it is read.
            over = await self._is_over(history)
            self._is_unread = False
            async for batch in self._catch_up(history, over):
                yield batch
            if (over and not self._is_unread) or history.ended or self._ended:
                has_end = history.ended or self._ended
                if history.ended and history.head is not None:
                    self.end = Cursor(self._cursor.attempt, history.head)
                self._is_dead = not (has_end or history.is_released)
                if history.is_released and not has_end:
                    self.gaps += 1
                    _log.warning("%s: the end of attempt %d is missing", self._target, self._cursor.attempt)
                return
            if not self._follow:
                return
            async for batch in self._listen(history):
                yield batch

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
        """Yield what the history contains after the cursor."""
        while batches := await self._read(history, over):
            self._watchdog.reset()
            for batch in batches:
                if self._accept(batch):
                    yield batch
            # Otherwise a busy reader would never go live, or never end. An archive has no live feed.
            if history.is_at_end and not over and not (self._follow and self._target.archive):
                break
        for damage in history.damages:
            _log.warning("%s: skipped damaged %s", self._target, damage)
        history.damages.clear()

    async def _listen(self, history: History) -> AsyncIterator[Batch]:
        """Yield live batches, until none of the requested channels arrives for a while or one is missing."""
        live = await self._connect()
        if live is None:
            self._watchdog.check(self._source.silence_reason)
            await asyncio.sleep(POLL_SECONDS)
            return
        # Batches may have been published between the last read of the history and a new connection.
        quiet_seconds = history.quiet_seconds if live is self._previous_live else SILENCE_SECONDS
        self._previous_live, last_accepted = live, time.monotonic()
        # Heartbeats do not extend the wait: they do not show whether the attempt is over.
        while time.monotonic() - last_accepted < quiet_seconds:
            batch = await live.receive(SILENCE_SECONDS)
            if batch is None:
                self._watchdog.check("its publisher is silent")
                continue
            header = batch.header
            if header.attempt < self._cursor.attempt:
                continue
            self._watchdog.reset()
            if header.channel == HEARTBEAT:
                self.heartbeat = read_heartbeat(batch) or self.heartbeat
            if header.unjournaled:
                if self._is_new_to_view(batch) and live.is_readable(batch):
                    yield batch
                continue
            if self._is_ahead(batch):
                return
            if header.channel == HEARTBEAT and header.last and header.attempt == self._cursor.attempt:
                # The last batch itself is on a channel that is not requested.
                self._ended, self.end = True, batch.cursor
                return
            if header.channel == HEARTBEAT or batch.cursor <= self._cursor:
                continue
            if not live.is_readable(batch):
                return
            if self._accept(batch):
                yield batch
                last_accepted = time.monotonic()
                if header.last:
                    self._ended = True
                    return

    def _is_ahead(self, batch: Batch) -> bool:
        """Return whether the history must be read before a live batch is delivered."""
        attempt = batch.header.attempt
        return attempt > self._cursor.attempt or (
            attempt == self._cursor.attempt and not batch.follows(self._cursor.seq, self._channels)
        )

    def _accept(self, batch: Batch) -> bool:
        """Move the cursor past a batch, and return whether to deliver it."""
        header = batch.header
        if header.channel not in self._channels or batch.cursor <= self._cursor:
            return False
        if not batch.follows(self._cursor.seq, self._channels):
            self.gaps += 1
            _log.warning("%s: events between %d and %d are missing", self._target, self._cursor.seq, header.seq)
        self._cursor = self.delivered = batch.cursor
        last_kept = self._kept.get(header.attempt)
        is_kept = last_kept is None or batch.cursor.seq <= last_kept
        return batch.cursor > self._shown and self._is_readable(batch) and is_kept

    def _is_readable(self, batch: Batch) -> bool:
        if self._source.options.raw:
            return True
        try:
            self.malformed += batch.malformed
        except MalformedBatchError as error:
            self.malformed += batch.header.count
            _log.warning("%s: skipped %s", self._target, error)
            return False
        return True

    def _is_new_to_view(self, batch: Batch) -> bool:
        """Return whether to deliver an unjournaled batch: only live views get it, and only once."""
        is_new = self._is_view and batch.header.channel in self._channels and batch.cursor > self._shown
        if is_new:
            self._shown = batch.cursor
        return is_new

    async def _connect(self) -> LiveFeed | None:
        with contextlib.suppress(TimeoutError):
            return await self._source.connect(self._cursor.attempt)
        return None

    async def _is_over(self, history: History) -> bool:
        try:
            over = await history.is_over(self._cursor.attempt)
        except TimeoutError:
            return False
        if history.renewed != self._lease_renewed:
            self._lease_renewed = history.renewed
            self._watchdog.note_sign_of_life()
        return over

    async def _read(self, history: History, over: bool) -> list[Batch]:
        try:
            return await history.read(self._cursor, final=over)
        except TimeoutError:
            if self._follow:
                self._is_unread = True
                return []
            raise IncompleteError(f"{self._target}: its publisher does not answer") from None
