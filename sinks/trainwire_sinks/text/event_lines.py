"""Any event on one line, for a person at a terminal."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from trainwire_protocol.events import Event
from trainwire_sinks.text.format import cut, number, one_line, plain, timestamp
from trainwire_sinks.text.lifecycle import describe_lifecycle

LONGEST: Final = 200
"""Characters of a value before it is cut."""


def format_event(event: Event) -> str:
    """Its time, step, name and value, on one line in which nothing can steer a terminal."""
    describe = _DESCRIPTIONS.get(event.type, _describe_other)
    value = cut(one_line(describe(event)), LONGEST)
    return f"{timestamp(event.walltime, separator=' ')}  {event.step:>8}  {one_line(event.name)}  {value}"


def _describe_scalar(event: Event) -> str:
    return number(event.value)


def _describe_media(event: Event) -> str:
    fields = {name: value for name, value in event.value.items() if name not in ("data", "format")}
    about = "".join(f", {name} {plain(value)}" for name, value in fields.items())
    return f"{plain(event.value['format'])}, {len(event.value['data']):,} bytes{about}"


def _describe_histogram(event: Event) -> str:
    value: Mapping[str, Any] = event.value
    return f"{number(sum(value['counts']))} values from {number(value['min'])} to {number(value['max'])}"


def _describe_table(event: Event) -> str:
    return f"{len(event.value['rows']):,} rows of {', '.join(map(plain, event.value['columns']))}"


def _describe_log(event: Event) -> str:
    return f"{event.value['level']} {event.value['logger']}: {event.value['message']}"


def _describe_lifecycle(event: Event) -> str:
    return describe_lifecycle(event) or plain(event.value)


def _describe_other(event: Event) -> str:
    return plain(event.value)


_DESCRIPTIONS: Final[dict[str, Callable[[Event], str]]] = {
    "scalar": _describe_scalar,
    "image": _describe_media,
    "audio": _describe_media,
    "histogram": _describe_histogram,
    "table": _describe_table,
    "log": _describe_log,
    "lifecycle": _describe_lifecycle,
}
