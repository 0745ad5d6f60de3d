"""`trainwire tail`."""

from __future__ import annotations

import asyncio
import sys
from collections import deque
from collections.abc import Iterable
from itertools import chain, islice
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from trainwire_protocol.errors import IncompleteError, OptionError, TargetError
from trainwire_protocol.events import Event
from trainwire_protocol.journal.attempts import LATEST, attempts_until, kept_backwards
from trainwire_protocol.journal.files import run_in_background
from trainwire_protocol.journal.run_folder import list_attempts
from trainwire_protocol.journal.tail import events_of
from trainwire_protocol.subscription.subscription import Subscription
from trainwire_protocol.subscription.target import Target, resolve_target, suggest_run
from trainwire_protocol.wire import START, Cursor
from trainwire_sinks.cli.options import ALL_EVENTS, Filters, Selection, check_seconds
from trainwire_sinks.cli.ranks import find_ranks, wait_for_rank, wait_for_ranks
from trainwire_sinks.cli.record_reader import check_gaps, read_record
from trainwire_sinks.text.event_lines import format_event
from trainwire_sinks.text.json_lines import format_events


def tail(
    target: str,
    *,
    filters: Annotated[Filters, Parameter("*")] = ALL_EVENTS,
    begin: Annotated[str | None, Parameter("--from")] = None,
    lines: Annotated[int, Parameter(["--lines", "-n"])] = 10,
    follow: Annotated[bool, Parameter(["--follow", "-f"], negative="")] = False,
    as_json: Annotated[bool, Parameter("--json", negative="")] = False,
    rank: str = "0",
    attempt: int | None = None,
    give_up: float | None = None,
) -> int:
    """Print a run's last events, and with --follow new ones too: trainwire tail RUN --follow --name 'dev/*'

    Events that a resumed run has superseded are left out.

    Args:
        target: A run's folder, a connection file or an address.
        filters: Which events.
        begin: Where to begin: "start", "now" or a step; by default with the last events.
        lines: How many of the last events to print for each rank.
        follow: Continue with new events until the run is over, and wait for a run that has not begun.
        as_json: Print lines of JSON.
        rank: The rank to read, or "all".
        attempt: Print the events of the run as it stood when this attempt ended, with what it had resumed.
        give_up: Seconds after which to stop waiting for a run to begin, or for a silent trainer on another host.
    """
    resolved = resolve_target(target)
    check_seconds("--give-up", give_up)
    if lines < 1:
        raise OptionError(f"--lines must be 1 or more, not {lines}; to print new events only, use --from now")
    if begin == "now" and not follow:
        raise OptionError("--from now prints new events only: add --follow")
    selection = Selection(filters, _parse_step(begin))
    reading = _Tail(resolved, selection, begin, lines, as_json, LATEST if attempt is None else attempt)
    asyncio.run(reading.run(rank, follow=follow, give_up=give_up))
    if not follow:
        selection.check(resolved)
    return 0


def _parse_step(begin: str | None) -> int | None:
    if begin in (None, "start", "now"):
        return None
    try:
        return int(begin or "")
    except ValueError:
        raise OptionError(f'--from must be "start", "now" or a step, not {begin!r}') from None


class _Tail:
    """Prints the selected events of a run's ranks."""

    def __init__(
        self, target: Target, selection: Selection, begin: str | None, lines: int, as_json: bool, attempt: int
    ) -> None:
        self._target, self._selection, self._begin = target, selection, begin
        self._lines, self._as_json, self._attempt = lines, as_json, attempt
        self._has_ranks = False

    async def run(self, rank: str, *, follow: bool, give_up: float | None) -> None:
        """Print the events of one rank or of all; when following, those of all ranks in the order received."""
        if rank == "all" and follow and self._target.folder:
            await wait_for_ranks(self._target.folder, give_up)
        ranks = find_ranks(self._target, rank)
        self._has_ranks = len(ranks) > 1
        if follow:
            await asyncio.gather(*(self._follow(number, give_up) for number in ranks))
            return
        for number in ranks:
            await (self._print_last(number) if self._begin is None else self._print_record(number))

    async def _print_record(self, rank: int) -> None:
        async for batch in read_record(self._target, rank, self._selection.channels, attempt=self._attempt):
            self._print(rank, self._selection.select(batch.events))

    async def _follow(self, rank: int, give_up: float | None) -> None:
        await wait_for_rank(self._target, rank, give_up)
        cursor = await self._print_last(rank) if self._begin is None else START
        subscription = Subscription(
            self._target, rank=rank, channels=self._selection.channels, cursor=cursor,
            from_now=self._begin == "now", superseded_by=self._attempt, last_attempt=self._attempt, give_up=give_up,
        )  # fmt: skip
        async with subscription as batches:
            async for batch in batches:
                self._print(rank, self._selection.select(batch.events))
        check_gaps(subscription, self._target)

    async def _print_last(self, rank: int) -> Cursor:
        """Print the last events recorded so far, and return the cursor after them."""
        folder = self._target.folder
        if folder is None:
            events, cursor = await self._read_last(rank)
        else:
            try:
                events, cursor = await run_in_background(self._read_last_backwards, folder, rank)
            except OSError as error:
                raise IncompleteError(f"the journal of {self._target} cannot be read: {error}") from error
        self._print(rank, events)
        return cursor

    def _read_last_backwards(self, folder: Path, rank: int) -> tuple[Iterable[Event], Cursor]:
        """Read the last events from the end of the journal."""
        attempts = list_attempts(folder, rank)
        if not attempts:
            raise TargetError(f"there is no run of rank {rank} in {self._target}{suggest_run(folder)}")
        batches = kept_backwards(attempts_until(attempts, self._attempt, self._target))
        last = next(batches, None)
        if last is None:
            return [], START
        read = (batch for batch in chain([last], batches) if batch.header.channel in self._selection.channels)
        selected = (event for batch in read for event in reversed(self._selection.select(events_of(batch))))
        return list(islice(selected, self._lines))[::-1], last.cursor

    async def _read_last(self, rank: int) -> tuple[Iterable[Event], Cursor]:
        """Read the last events by reading the whole record."""
        events: deque[Event] = deque(maxlen=self._lines)
        cursor = START
        async for batch in read_record(self._target, rank, self._selection.channels, attempt=self._attempt):
            events.extend(self._selection.select(batch.events))
            cursor = batch.cursor
        return events, cursor

    def _print(self, rank: int, events: Iterable[Event]) -> None:
        if self._as_json:
            text = format_events(events, rank=rank)
        else:
            prefix = f"rank {rank} | " if self._has_ranks else ""
            text = "".join(f"{prefix}{format_event(event)}\n" for event in events)
        if text:
            sys.stdout.write(text)
            sys.stdout.flush()
