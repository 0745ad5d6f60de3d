"""Writes every event as a line of JSON."""

from __future__ import annotations

from collections.abc import Sequence

from trainwire_protocol.events import Event
from trainwire_sinks.runtime.sink import AppendSink
from trainwire_sinks.text.json_lines import format_events


class JsonLines(AppendSink):
    """Writes events.jsonl: one line of JSON for each event, with its name, value, type, walltime and step.

    Events that a resumed run has superseded are removed. JSON has no NaN and no infinity: they become strings that
    Python's `float` accepts. Bytes are encoded in base64.
    """

    name = "jsonl"
    file_name = "events.jsonl"
    channels = frozenset({"event", "media"})

    async def handle(self, events: Sequence[Event]) -> None:
        """Append a line for each event."""
        await self.output.write(format_events(events))
