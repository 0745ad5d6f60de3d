"""Reading a run's journal, and waiting for conditions."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path

from trainwire_protocol.events import Event
from trainwire_protocol.journal.run_folder import list_attempts
from trainwire_protocol.journal.segments import JournalReader, list_segments
from trainwire_protocol.wire import Batch


def read_batches(run_folder: Path, rank: int = 0, attempt: int | None = None) -> list[Batch]:
    """Return all batches of a rank, or of one of its attempts, in order."""
    batches: list[Batch] = []
    for found in list_attempts(run_folder, rank):
        if attempt in (None, found.number):
            reader = JournalReader(found.folder)
            while more := reader.read(final=True):
                batches += more
            reader.close()
    return batches


def read_events(run_folder: Path, rank: int = 0, attempt: int | None = None) -> list[Event]:
    """Return all events of a rank, or of one of its attempts, in order."""
    return [event for batch in read_batches(run_folder, rank, attempt) for event in batch.events]


def journal_bytes(run_folder: Path, rank: int = 0) -> bytes:
    """Return the segments of all attempts of a rank, joined."""
    segments = (path for attempt in list_attempts(run_folder, rank) for path in list_segments(attempt.folder))
    return b"".join(path.read_bytes() for path in segments)


def wait_until(condition: Callable[[], object], seconds: float = 60.0) -> None:
    """Wait for a condition of another thread or process."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "the condition was not met in time"
        time.sleep(0.005)


async def until(condition: Callable[[], object]) -> None:
    """Wait for a condition while the event loop runs, until the test's time limit."""
    while not condition():
        await asyncio.sleep(0.01)
