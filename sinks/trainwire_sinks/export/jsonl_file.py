"""Exports events as lines of JSON."""

from __future__ import annotations

from collections.abc import Sequence
from typing import BinaryIO

from trainwire_protocol.events import Event
from trainwire_sinks.text.json_lines import format_events


class JsonlWriter:
    """Writes the same lines as the sink `jsonl`, with the rank, and if wanted the run, added to each."""

    def __init__(self, file: BinaryIO, *, with_run: bool = False) -> None:
        self._file = file
        self._with_run = with_run

    def write(self, run: str, rank: int, events: Sequence[Event]) -> None:
        """Append the events of a run's rank."""
        identity: dict[str, int | str] = {"rank": rank, "run": run} if self._with_run else {"rank": rank}
        self._file.write(format_events(events, **identity).encode())

    def close(self) -> None:
        """Do nothing: nothing is buffered."""
