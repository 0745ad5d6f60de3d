"""Every event as a line of JSON."""

from __future__ import annotations

from collections.abc import Sequence

from trainwire_protocol.events import Event
from trainwire_sinks.runtime.base import AppendSink
from trainwire_sinks.text.json_lines import format_events


class JsonLines(AppendSink):
    """Writes events.jsonl: one line of JSON for each event, with its name, value, type, walltime and step.

    What a resumed run has superseded is taken out. JSON has no NaN or infinity: they are the strings that Python's
    `float` reads. Bytes are in base64.
    """

    name = "jsonl"
    file_name = "events.jsonl"
    channels = frozenset({"event", "media"})

    async def handle(self, events: Sequence[Event]) -> None:
        """Write the batch's lines."""
        await self.output.write(format_events(events))
