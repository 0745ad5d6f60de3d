"""Formats any event as one line, for people at a terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from trainwire_protocol.events import Event
from trainwire_sinks.text.format import cut, number, one_line, plain, timestamp
from trainwire_sinks.text.lifecycle import describe_lifecycle

MAX_VALUE_CHARACTERS: Final = 200
"""Maximum length of a value, in characters; a longer one is shortened."""

_NOT_FINITE: Final = {"nan": "NaN", "infinite": "infinite"}


def format_event(event: Event) -> str:
    """Return the time, step, name and value of an event, on one line without control characters."""
    value = cut(one_line(_describe(event)), MAX_VALUE_CHARACTERS)
    return f"{timestamp(event.walltime, separator=' ')}  {event.step:>8}  {one_line(event.name)}  {value}"


def _describe(event: Event) -> str:
    value = event.value
    match event.type:
        case "scalar":
            return number(value)
        case "image" | "audio":
            return _describe_media(value)
        case "summary":
            return _describe_summary(value)
        case "histogram":
            return _describe_histogram(value)
        case "table":
            return f"{len(value['rows']):,} rows of {', '.join(map(plain, value['columns']))}"
        case "log":
            return f"{value['level']} {value['logger']}: {value['message']}"
        case "lifecycle":
            return describe_lifecycle(event) or plain(value)
    return plain(value)


def _describe_histogram(value: Mapping[str, Any]) -> str:
    others = "".join(f", {value[field]} {kind}" for field, kind in _NOT_FINITE.items() if value.get(field))
    return f"{number(sum(value['counts']))} values from {number(value['min'])} to {number(value['max'])}{others}"


def _describe_summary(value: Mapping[str, Any]) -> str:
    kind = plain(value.get("plugin") or value["format"])
    details = "".join(f", {plain(value[field])}" for field in ("type", "path", "run") if value.get(field))
    return f"{kind} for TensorBoard, {len(value['data']):,} bytes{details}"


def _describe_media(value: Mapping[str, Any]) -> str:
    fields = {name: field for name, field in value.items() if name not in ("data", "format")}
    details = "".join(f", {name} {plain(field)}" for name, field in fields.items())
    return f"{plain(value['format'])}, {len(value['data']):,} bytes{details}"
