from __future__ import annotations

import json
import math
from pathlib import Path

from hypothesis import given
from support.strategies import events

from trainwire_protocol.events import Event
from trainwire_sinks.builtin.jsonl import JsonLines
from trainwire_sinks.testing.check_sink import check_sink
from trainwire_sinks.text.json_lines import format_events, to_json


def test_each_event_takes_effect_once(tmp_path: Path) -> None:
    """Killed at any moment and restarted, the sink writes the same bytes."""
    check_sink(JsonLines, tmp_path)


def test_a_line_has_the_five_fields() -> None:
    """Each event is one line of JSON with its five fields in their order."""
    event = Event("train/loss", 0.25, "scalar", 1.5, 7)
    line = format_events([event])
    assert line == '{"name": "train/loss", "value": 0.25, "type": "scalar", "walltime": 1.5, "step": 7}\n'


@given(events())
def test_a_line_equals_the_encoded_map(event: Event) -> None:
    """For any event, the line has the same bytes as the map of its fields encoded as JSON."""
    assert format_events([event], rank=3) == to_json({**event._asdict(), "rank": 3}) + "\n"


def test_values_that_json_lacks_are_encoded() -> None:
    """NaN and infinities become strings that `float` accepts, bytes become base64, and newlines are escaped."""
    recorded = [
        Event("a\nb", math.nan, "scalar", 1.0, 1),
        Event("i", {"data": b"\x00\xff", "format": "png"}, "image", 1.0, 1),
        Event("s", (1.0, -math.inf), "scalars", 1.0, 1),
    ]
    lines = format_events(recorded).splitlines()
    assert len(lines) == len(recorded)
    values = [json.loads(line)["value"] for line in lines]
    assert math.isnan(float(values[0]))
    assert values[1] == {"data": "AP8=", "format": "png"}
    assert [float(number) for number in values[2]] == [1.0, -math.inf]
