"""Which of a run's events still count: a resumed attempt supersedes what came after the position it resumes from."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from trainwire_protocol.errors import MalformedBatchError
from trainwire_protocol.events import Event
from trainwire_protocol.journal.records import MARKER
from trainwire_protocol.journal.run_folder import Attempt
from trainwire_protocol.journal.segments import JournalReader
from trainwire_protocol.journal.tail import batches_backwards, events_of, read_first
from trainwire_protocol.wire import Batch, Cursor

MARK: Final = "run/marked"
"""Name of the lifecycle event that a checkpoint's position points to; it ends its batch."""

NOTHING: Final = Cursor(-1, -1)
"""The position before any attempt: resumed from it, a run keeps nothing of what was before."""


def resumed_from(event: Event) -> Cursor | None:
    """The position that a `run/resumed` event names, `NOTHING` if it names none, None for any other event."""
    if event.type != "lifecycle" or event.name != "run/resumed":
        return None
    position = event.value.get("from")
    return parse_position(position) or NOTHING


def parse_position(position: Any) -> Cursor | None:
    """Read a position `{attempt, seq}` as it stands in events and replies, or None if it is none."""
    if not isinstance(position, Mapping):
        return None
    attempt, seq = position.get("attempt"), position.get("seq")
    return Cursor(attempt, seq) if type(attempt) is int and type(seq) is int and attempt >= 0 else None


def read_resumed_from(attempt: Attempt) -> Cursor | None:
    """The position that an attempt in a run's folder says it resumes from; None if it says nothing of the kind."""
    first = read_first(attempt)
    events = events_of(first) if first else ()
    return resumed_from(events[0]) if events else None


def find_mark(attempt: Attempt, mark: int) -> Cursor:
    """Where an attempt recorded a mark; where it ends, if it was not journaled.

    The journal holds the beginning of what was recorded: if the mark is not in it, all that is was before the mark.
    """
    reader = JournalReader(attempt.folder)
    try:
        while batches := reader.read(final=True):
            for batch in batches:
                if MARK.encode() in batch.body and _has_mark(batch, mark):
                    return batch.cursor
        return Cursor(attempt.number, reader.after)
    finally:
        reader.close()


def _has_mark(batch: Batch, mark: int) -> bool:
    with contextlib.suppress(MalformedBatchError):
        return any(_is_mark(event, mark) for event in batch.events)
    return False


def _is_mark(event: Event, mark: int) -> bool:
    return event.type == "lifecycle" and event.name == MARK and event.value.get("mark") == mark


def kept_ranges(resumed: Mapping[int, Cursor | None]) -> dict[int, int | None]:
    """For each attempt that still counts the last seq that does, or None if all of it does.

    `resumed` maps each attempt of a run to the position it resumes from. An attempt that names none, because it is
    the first or ended before it recorded anything, supersedes nothing.
    """
    kept: dict[int, int | None] = {}
    limit = Cursor(max(resumed, default=0), 2**63)
    for attempt in sorted(resumed, reverse=True):
        if attempt > limit.attempt:
            continue
        kept[attempt] = limit.seq if attempt == limit.attempt and limit.seq < 2**63 else None
        limit = resumed[attempt] or limit
    return kept


def kept_backwards(attempts: Sequence[Attempt], word: bytes = MARKER, limit: int | None = None) -> Iterator[Batch]:
    """The batches of a rank that still count and have `word` in their bytes, the last one first.

    `limit` is for each attempt, in bytes, as `batches_backwards` has it.

    Raises:
        OSError: a journal cannot be read.
        UnsupportedVersionError: a newer version wrote it.
    """
    kept = kept_ranges({attempt.number: read_resumed_from(attempt) for attempt in attempts})
    for attempt in sorted(attempts, key=lambda attempt: attempt.number, reverse=True):
        last = kept.get(attempt.number, -1)
        for batch in batches_backwards(attempt, word, limit) if last != -1 else ():
            if last is None or batch.cursor.seq <= last:
                yield batch
