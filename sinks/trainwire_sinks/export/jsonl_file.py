"""Export as lines of JSON."""

from __future__ import annotations

from collections.abc import Sequence
from typing import BinaryIO

from trainwire_protocol.events import Event
from trainwire_sinks.text.json_lines import format_events


class JsonlWriter:
    """The lines that the sink `jsonl` writes, with the rank in each."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file

    def write(self, rank: int, events: Sequence[Event]) -> None:
        """Append events of a rank."""
        self._file.write(format_events(events, rank=rank).encode())

    def close(self) -> None:
        """Nothing is held back."""
