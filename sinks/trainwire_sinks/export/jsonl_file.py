"""Exports events as lines of JSON."""

from __future__ import annotations

from collections.abc import Sequence
from typing import BinaryIO

from trainwire_protocol.events import Event
from trainwire_sinks.text.json_lines import format_events


class JsonlWriter:
    """Writes the same lines as the sink `jsonl`, with the rank added to each."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file

    def write(self, rank: int, events: Sequence[Event]) -> None:
        """Append the events of a rank."""
        self._file.write(format_events(events, rank=rank).encode())

    def close(self) -> None:
        """Do nothing: nothing is buffered."""
