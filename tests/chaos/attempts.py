"""What a run's attempts recorded, and whether all of it can still be found."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from pathlib import Path

from support.run_reader import read_events

from trainwire_protocol.events import Event
from trainwire_protocol.journal.run_folder import list_attempts
from trainwire_protocol.subscription.subscription import Subscription
from trainwire_protocol.subscription.target import Target

Key = tuple[str, int, float]
"""Name, step and walltime of an event."""


def count_hidden(run: Path, output: Path) -> int:
    """Return how many events are missing where they should be found.

    Each attempt must show all of its own events, and an output of the sink `jsonl` must be kept aside for each attempt
    with which a start of the run ended, with what that attempt shows.
    """
    recorded = {found.number: read_events(run, attempt=found.number) for found in list_attempts(run, 0)}
    recorded = {number: events for number, events in recorded.items() if events}
    hidden = 0
    for number, events in recorded.items():
        shown = asyncio.run(_as_of(run, number))
        hidden += (_keys(events) - shown).total()
        if number in _last_of_starts(recorded):
            hidden += (shown - _kept_aside(output / f"events.attempt-{number}.jsonl")).total()
    return hidden


def _last_of_starts(recorded: dict[int, list[Event]]) -> set[int]:
    """Return the attempts that were superseded with everything that they had resumed."""
    ended, lineage, last = set(), [min(recorded)], min(recorded)
    for number in sorted(recorded)[1:]:
        origin = recorded[number][0].value["from"]
        if origin is None or origin["attempt"] not in lineage:
            ended.add(last)
            lineage = []
        if origin is not None:
            lineage = _lineage(recorded, origin["attempt"])
        lineage, last = [*lineage, number], number
    return ended


def _lineage(recorded: dict[int, list[Event]], number: int) -> list[int]:
    """Return an attempt with those that it resumed, directly or through others."""
    origin = recorded[number][0].value.get("from")
    return [*(_lineage(recorded, origin["attempt"]) if origin else []), number]


async def _as_of(run: Path, attempt: int) -> Counter[Key]:
    channels = ("event", "media")
    async with Subscription(
        Target(run), channels=channels, follow=False, superseded_by=attempt, last_attempt=attempt
    ) as subscription:
        return _keys([event async for batch in subscription for event in batch.events])


def _keys(events: list[Event]) -> Counter[Key]:
    return Counter((event.name, event.step, event.walltime) for event in events)


def _kept_aside(path: Path) -> Counter[Key]:
    lines = path.read_text().splitlines() if path.exists() else []
    events = map(json.loads, lines)
    return Counter((event["name"], event["step"], event["walltime"]) for event in events)
