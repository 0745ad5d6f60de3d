"""Every event as a line of JSON, for `jq`, pandas and whatever comes next."""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Mapping, Sequence

from trainwire_protocol.events import Event
from trainwire_sinks.base import AppendSink


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
        await self.output.write("".join(map(format_event, events)))


def format_event(event: Event) -> str:
    """An event's line."""
    fields = event._asdict()
    try:
        return json.dumps(fields, allow_nan=False) + "\n"
    except (ValueError, TypeError):
        return json.dumps(_for_json(fields), allow_nan=False) + "\n"


def _for_json(value: object) -> object:
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    if isinstance(value, Mapping):
        return {str(key): _for_json(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_for_json(item) for item in value]
    return value
