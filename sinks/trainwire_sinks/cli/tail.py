"""`trainwire tail`."""

from __future__ import annotations

import asyncio
import sys
from collections import deque
from collections.abc import Iterable
from itertools import chain, islice
from typing import Annotated, NamedTuple

from cyclopts import Parameter

from trainwire_protocol.errors import IncompleteError, OptionError, TargetError
from trainwire_protocol.events import Event
from trainwire_protocol.journal.attempts import kept_backwards
from trainwire_protocol.journal.files import run_in_background
from trainwire_protocol.journal.run_folder import list_attempts
from trainwire_protocol.journal.tail import events_of
from trainwire_protocol.subscription.subscription import Subscription
from trainwire_protocol.subscription.target import Target, resolve_target
from trainwire_protocol.wire import START, Cursor
from trainwire_sinks.cli.options import ALL, Filters, Selection, check_seconds
from trainwire_sinks.cli.recorded import find_ranks, read_recorded, refuse_gaps
from trainwire_sinks.cli.sink_process import wait_for_rank, wait_for_ranks
from trainwire_sinks.text.event_lines import format_event
from trainwire_sinks.text.json_lines import format_events


def tail(
    target: str,
    *,
    filters: Annotated[Filters, Parameter("*")] = ALL,
    begin: Annotated[str | None, Parameter("--from")] = None,
    lines: Annotated[int, Parameter(["--lines", "-n"])] = 10,
    follow: Annotated[bool, Parameter(["--follow", "-f"], negative="")] = False,
    as_json: Annotated[bool, Parameter("--json", negative="")] = False,
    rank: str = "0",
    give_up: float | None = None,
) -> int:
    """Print a run's last events, and with --follow those that come: trainwire tail RUN --follow --name 'dev/*'

    What a resumed run has superseded is left out.

    Args:
        target: A run's folder, a connection file or an address.
        filters: Which events.
        begin: Where to begin: "start", "now" or a step; if left out, with the last events.
        lines: How many of the last events are printed, of each rank.
        follow: Go on with what comes, until the run is over; one that has not begun is waited for.
        as_json: Print lines of JSON.
        rank: The process whose events are wanted, or "all".
        give_up: Seconds after which a trainer on another host that has fallen silent is no longer waited for.
    """
    where = resolve_target(target)
    check_seconds("--give-up", give_up)
    if lines < 1:
        raise OptionError(f"--lines is a number, 1 or more, not {lines}: for what comes alone there is --from now")
    if begin == "now" and not follow:
        raise OptionError("--from now is for what comes: add --follow")
    selection = Selection(filters, _step(begin))
    asyncio.run(_Tail(where, selection, begin, lines, as_json).run(rank, follow=follow, give_up=give_up))
    if not follow:
        selection.check(where)
    return 0


def _step(begin: str | None) -> int | None:
    """The step to begin at, if `--from` names one."""
    if begin in (None, "start", "now"):
        return None
    try:
        return int(begin or "")
    except ValueError:
        raise OptionError(f'--from is "start", "now" or a step, not {begin!r}') from None


class _Last(NamedTuple):
    """The last events that are recorded, and where they end."""

    events: Iterable[Event]
    cursor: Cursor


class _Tail:
    """Prints the selected events of a run's ranks."""

    def __init__(self, target: Target, selection: Selection, begin: str | None, lines: int, as_json: bool) -> None:
        self._target, self._selection, self._begin = target, selection, begin
        self._lines, self._as_json = lines, as_json
        self._has_ranks = False

    async def run(self, rank: str, *, follow: bool, give_up: float | None) -> None:
        """Print the events of one rank or of all; those of several come as they were received."""
        if rank == "all" and follow and self._target.folder:
            await wait_for_ranks(self._target.folder, give_up)
        ranks = find_ranks(self._target, rank)
        self._has_ranks = len(ranks) > 1
        if not follow:
            for number in ranks:
                await (self._print_last(number) if self._begin is None else self._print_recorded(number))
        else:
            await asyncio.gather(*(self._follow(number, give_up) for number in ranks))

    async def _print_recorded(self, rank: int) -> None:
        async for batch in read_recorded(self._target, rank, self._selection.channels):
            self._print(rank, self._selection.select(batch.events))

    async def _follow(self, rank: int, give_up: float | None) -> None:
        await wait_for_rank(self._target, rank, give_up)
        cursor = await self._print_last(rank) if self._begin is None else START
        subscription = Subscription(
            self._target, rank=rank, channels=self._selection.channels, cursor=cursor,
            from_now=self._begin == "now", skip_superseded=True, give_up=give_up,
        )  # fmt: skip
        async with subscription as batches:
            async for batch in batches:
                self._print(rank, self._selection.select(batch.events))
        refuse_gaps(subscription, self._target)

    async def _print_last(self, rank: int) -> Cursor:
        """Print the last events that are recorded by now; returns where they end."""
        if self._target.folder is not None:
            try:
                last = await run_in_background(self._look_back, rank)
            except OSError as error:
                raise IncompleteError(f"the journal of {self._target} cannot be read: {error}") from error
        else:
            last = await self._read_to_end(rank)
        self._print(rank, last.events)
        return last.cursor

    def _look_back(self, rank: int) -> _Last:
        assert self._target.folder is not None
        attempts = list_attempts(self._target.folder, rank)
        if not attempts:
            raise TargetError(f"there is no run of rank {rank} in {self._target}")
        batches = kept_backwards(attempts)
        last = next(batches, None)
        if last is None:
            return _Last([], START)
        wanted = (batch for batch in chain([last], batches) if batch.header.channel in self._selection.channels)
        found = (event for batch in wanted for event in reversed(self._selection.select(events_of(batch))))
        return _Last(list(islice(found, self._lines))[::-1], last.cursor)

    async def _read_to_end(self, rank: int) -> _Last:
        events: deque[Event] = deque(maxlen=self._lines)
        cursor = START
        async for batch in read_recorded(self._target, rank, self._selection.channels):
            events.extend(self._selection.select(batch.events))
            cursor = batch.cursor
        return _Last(events, cursor)

    def _print(self, rank: int, events: Iterable[Event]) -> None:
        if self._as_json:
            text = format_events(events, rank=rank)
        else:
            prefix = f"rank {rank} | " if self._has_ranks else ""
            text = "".join(f"{prefix}{format_event(event)}\n" for event in events)
        if text:
            sys.stdout.write(text)
            sys.stdout.flush()
