"""Which events of a run are kept: a resumed attempt supersedes those after the position that it resumes from."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import closing
from itertools import islice
from typing import Any, Final, NamedTuple

from trainwire_protocol.errors import TargetError
from trainwire_protocol.events import Event
from trainwire_protocol.journal.records import MARKER
from trainwire_protocol.journal.run_folder import Attempt
from trainwire_protocol.journal.segments import JournalReader
from trainwire_protocol.journal.tail import batches_backwards, ending_in, events_of, read_first
from trainwire_protocol.wire import Batch, Cursor

MARK: Final = "run/marked"
"""Name of the lifecycle event that records the position of a checkpoint. It is the last event of its batch."""

NOTHING: Final = Cursor(-1, -1)
"""The position before any attempt. A run that resumes from it keeps nothing of its earlier attempts."""

LATEST: Final = 2**63 - 1
"""Stands for the last attempt that has begun, where a function takes the number of an attempt."""

SEARCHED_BATCHES: Final = 100
"""Maximum number of batches that `last_events` reads."""

SEARCHED_EVENTS: Final = 10_000
"""Maximum number of events that `last_events` yields; reading them takes about 20 ms."""


class RunEnd(NamedTuple):
    """The end of what a rank has recorded."""

    cursor: Cursor
    step: int
    """The largest of the last steps."""
    ending: str | None
    """How the attempt reported its end, such as `finished`; None if it did not."""


def resumed_from(event: Event) -> Cursor | None:
    """Return the position in a `run/resumed` event, `NOTHING` if it has none, and None for any other event."""
    if event.type != "lifecycle" or event.name != "run/resumed":
        return None
    return parse_position(event.value.get("from")) or NOTHING


def parse_position(position: Any) -> Cursor | None:
    """Return a position from its fields `{attempt, seq}` in events and replies, or None if they are invalid."""
    if not isinstance(position, Mapping):
        return None
    attempt, seq = position.get("attempt"), position.get("seq")
    return Cursor(attempt, seq) if type(attempt) is int and type(seq) is int and attempt >= 0 else None


def read_resumed_from(attempt: Attempt) -> Cursor | None:
    """Return the position that an attempt resumes from, or None if its first event is not `run/resumed`.

    Raises:
        OSError: the journal cannot be read.
        UnsupportedVersionError: a newer version wrote it.
    """
    first = read_first(attempt)
    events = events_of(first) if first else ()
    return resumed_from(events[0]) if events else None


def find_mark(attempt: Attempt, mark: int) -> Cursor:
    """Return the position of a mark in an attempt, or the attempt's end if the mark is not in the journal.

    The journal has no gaps, so all of it was recorded before a mark that it does not contain.

    Raises:
        OSError: the journal cannot be read.
        UnsupportedVersionError: a newer version wrote it.
    """
    with closing(JournalReader(attempt.folder)) as reader:
        for batch in reader.read_all(final=True):
            # Few batches contain a mark, and only those are decoded.
            if MARK.encode() in batch.body and any(
                event.type == "lifecycle" and event.name == MARK and event.value.get("mark") == mark
                for event in events_of(batch)
            ):
                return batch.cursor
        return Cursor(attempt.number, reader.after)


def find_end(attempts: Sequence[Attempt]) -> RunEnd | None:
    """Return the end of the last attempt that has recorded anything, or None if none has.

    Raises:
        OSError: a journal cannot be read.
        UnsupportedVersionError: a newer version wrote it.
    """
    batch = next((batch for attempt in reversed(attempts) for batch in batches_backwards(attempt)), None)
    if batch is None:
        return None
    ending = ending_in(batch)
    step = max((event.step for event in last_events(attempts)), default=0)
    return RunEnd(batch.cursor, step, ending and ending.name.removeprefix("run/"))


def check_attempt(number: int, known: Collection[int], run: object) -> None:
    """Check that a run has an attempt.

    Raises:
        TargetError: it does not; the message lists the attempts.
    """
    if number not in known and number != LATEST:
        first, last = min(known, default=0), max(known, default=0)
        found = f"it has attempts {first} to {last}" if last > first else f"it has attempt {first} only"
        raise TargetError(f"{run} has no attempt {number}; {found if known else 'it has not begun'}")


def attempts_until(attempts: Sequence[Attempt], last: int, run: object) -> list[Attempt]:
    """Return the attempts of a run up to `last`.

    Raises:
        TargetError: the run has no attempt `last`.
    """
    check_attempt(last, [attempt.number for attempt in attempts], run)
    return [attempt for attempt in attempts if attempt.number <= last]


def kept_ranges(resumed: Mapping[int, Cursor | None]) -> dict[int, int | None]:
    """Return the attempts that are kept, each with the last seq that is kept; None if the whole attempt is.

    Args:
        resumed: for each attempt of a run, the position it resumes from. An attempt with None supersedes nothing: it is
            the first, or ended before it recorded anything.
    """
    kept: dict[int, int | None] = {}
    limit = Cursor(max(resumed, default=0), 2**63)
    for attempt in sorted(resumed, reverse=True):
        if attempt > limit.attempt:
            continue
        kept[attempt] = limit.seq if attempt == limit.attempt and limit.seq < 2**63 else None
        limit = resumed[attempt] or limit
    return kept


def kept_backwards(attempts: Sequence[Attempt], content: bytes = MARKER, limit: int | None = None) -> Iterator[Batch]:
    """Yield the batches of a rank that are not superseded, the last batch first.

    Args:
        attempts: all attempts of the rank.
        content: bytes that a batch's record must contain, as in `batches_backwards`.
        limit: bytes to search from the end of each attempt, as in `batches_backwards`.

    Raises:
        OSError: a journal cannot be read.
        UnsupportedVersionError: a newer version wrote it.
    """
    kept = kept_ranges({attempt.number: read_resumed_from(attempt) for attempt in attempts})
    for attempt in sorted(attempts, key=lambda attempt: attempt.number, reverse=True):
        last = kept.get(attempt.number, -1)
        for batch in batches_backwards(attempt, content, limit) if last != -1 else ():
            if last is None or batch.cursor.seq <= last:
                yield batch


def last_events(attempts: Sequence[Attempt]) -> Iterator[Event]:
    """Yield the last events of a rank that are not superseded, the last one first, in a limited number.

    The last step of a rank is the largest of theirs: the very last event may be about an earlier step.

    Raises:
        OSError: a journal cannot be read.
        UnsupportedVersionError: a newer version wrote it.
    """
    batches = islice(kept_backwards(attempts), SEARCHED_BATCHES)
    yield from islice((event for batch in batches for event in reversed(events_of(batch))), SEARCHED_EVENTS)
