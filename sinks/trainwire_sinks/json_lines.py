"""An event as a line of JSON, for `jq`, pandas and whatever comes next."""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Mapping
from typing import Final

from trainwire_protocol.events import Event


def format_event(event: Event, **identity: int) -> str:
    """An event's line: its name, value, type, walltime and step, and what else is to stand in it."""
    return to_json(event._asdict() | identity) + "\n"


def to_json(value: object, indent: int | None = None) -> str:
    """A value of an event as JSON in ASCII, on one line unless it is indented.

    JSON has no NaN or infinity: they are the strings that Python's `float` reads. Bytes are in base64.
    """
    # Made once: `json.dumps` makes one for each call that asks for anything special.
    encoder = _ONE_LINE if indent is None else json.JSONEncoder(allow_nan=False, indent=indent)
    try:
        return encoder.encode(value)
    except (ValueError, TypeError):
        return encoder.encode(_for_json(value))


_ONE_LINE: Final = json.JSONEncoder(allow_nan=False)


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
