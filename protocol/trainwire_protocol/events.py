"""Events, each with a name, value, type, walltime and step, and the checks of whether they are valid.

`docs/wire-protocol.md` specifies names, types and values; this module follows it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import chain, pairwise, repeat
from typing import Any, Final, Literal, NamedTuple, TypeAlias, TypeGuard, get_args

from trainwire_protocol.errors import InvalidEventError

EventType: TypeAlias = Literal[
    "scalar", "scalars", "text", "histogram", "image", "audio", "table", "hparams", "summary", "log", "lifecycle"
]
Channel: TypeAlias = Literal["event", "media"]

EVENT_TYPES: Final[frozenset[str]] = frozenset(get_args(EventType))
CHANNELS: Final[tuple[str, ...]] = get_args(Channel)

MEDIA_TYPES: Final[frozenset[str]] = frozenset({"image", "audio", "summary"})
"""The types whose events go to the channel `media`, whatever their size; their values have bytes as `data`."""

LOWEST_STEP: Final = -(2**63)
HIGHEST_STEP: Final = 2**63 - 1
"""The bounds of steps, which are 64-bit integers."""

MAX_NAME_BYTES: Final = 512
"""Maximum length of a name, in bytes of UTF-8."""

MAX_STRING_BYTES: Final = 1 << 20
"""Maximum length of a string anywhere in a value, in bytes of UTF-8."""

MAX_NESTING: Final = 8
"""Maximum depth of nested lists and maps in a value."""

MAX_VALUE_BYTES: Final = 32 << 20
"""Maximum size of the data of an image, sound or summary, in bytes."""

LIFECYCLE_NAMES: Final[frozenset[str]] = frozenset(
    {
        "run/started", "run/resumed", "run/marked", "run/interrupted", "run/failed", "run/finished",
        "epoch/started", "epoch/evaluated", "epoch/finished", "evaluation/started", "evaluation/finished",
        "checkpoint/saved", "checkpoint/deleted", "learning_rate/changed", "anomaly/detected",
        "command/received", "command/applied", "command/rejected",
        "plugin/failed", "events/dropped", "journal/missing",
    }
)  # fmt: skip

LAST_EVENTS: Final[frozenset[str]] = frozenset({"run/interrupted", "run/failed", "run/finished"})
"""The lifecycle names that end an attempt."""

_RECORD_FIELDS: Final = ("level", "logger", "message")
"""The required fields of a log record, all of them strings."""


_SUMMARY_TEXTS: Final = ("format", "plugin", "run", "path", "type")
"""The fields of a summary that are strings; all but `format` may be absent."""


class Event(NamedTuple):
    """One recorded value. On the wire it is a MessagePack array of these five fields, in this order."""

    name: str
    """Parts joined by "/", such as `train/loss`."""
    value: Any
    """Depends on the type; see `docs/wire-protocol.md`."""
    type: str
    """One of `EVENT_TYPES`, or a type of a later version."""
    walltime: float
    """When it was recorded, in seconds since the epoch."""
    step: int
    """Number of optimizer updates finished when it was recorded."""


Row: TypeAlias = tuple[str, Any, str, float, int]
"""The fields of an event. An `Event` is a row too, but a plain tuple is created several times as fast."""


def new_events(rows: Iterable[Row]) -> tuple[Event, ...]:
    """Return the rows as events. This is faster than calling `Event` for each."""
    return tuple(map(tuple.__new__, repeat(Event), rows))


def validate(event: Event) -> Event:
    """Return the event if it is valid. The value of an unknown type must only be plain.

    Raises:
        InvalidEventError: a field is invalid; the message contains the event's name, the field and its contents.
    """
    validate_name(event.name)
    if not isinstance(event.type, str) or _string_problem("type", event.type):
        raise InvalidEventError(f"event {event.name!r}: type is {_short(event.type)}, not a string")
    if not _is_number(event.walltime) or not math.isfinite(event.walltime):
        raise InvalidEventError(
            f"event {event.name!r}: walltime is {_short(event.walltime)}, not a finite number of seconds"
        )
    if type(event.step) is not int or not LOWEST_STEP <= event.step <= HIGHEST_STEP:
        raise InvalidEventError(f"event {event.name!r}: step is {_short(event.step)}, not a 64-bit integer")
    problem = value_problem(event.type, event.value)
    if problem:
        raise InvalidEventError(f"event {event.name!r} of type {event.type}: {problem}")
    return event


def value_problem(kind: str, value: object) -> str | None:
    """Return what is invalid about a value of an event type, or None if it is valid."""
    return _CHECKS.get(kind, _plain_problem)(value)


def are_plain_records(values: Sequence[Any]) -> bool:
    """Return whether all values are valid for the type `log` and consist of strings with a short total length.

    Most do, and checking them together takes a quarter of the time of checking each. If the result is False, all values
    may still be valid.
    """
    try:
        shapes = set(map(tuple, values))
        strings = [*chain.from_iterable(shapes), *chain.from_iterable(map(dict.values, values))]
    except TypeError:  # a value is not a dict
        return False
    return all(map(frozenset(_RECORD_FIELDS).issubset, shapes)) and _are_short_strings(strings)


def validate_name(name: object) -> None:
    """Raise InvalidEventError unless `name` is a valid name of an event."""
    if not isinstance(name, str) or not name:
        raise InvalidEventError(f"an event's name must be a non-empty string, not {_short(name)}")
    size = _utf8_length(name)
    if size is None:
        raise InvalidEventError(f"the name {_short(name)} cannot be encoded as UTF-8")
    if size > MAX_NAME_BYTES:
        raise InvalidEventError(f"the name {_short(name)} has {size} bytes; at most {MAX_NAME_BYTES} are allowed")


def _check_scalar(value: object) -> str | None:
    return None if _is_number(value) else f"the value is {_short(value)}, not a number"


def _check_scalars(value: object) -> str | None:
    if isinstance(value, Mapping):
        wrong = next((problem for label in value if (problem := _string_problem("a label", label))), None)
        return wrong or _first_wrong_number(list(value.values()))
    if _is_list(value):
        return _first_wrong_number(value)
    return f"the value is {_short(value)}, neither a list of numbers nor a map of label to number"


def _first_wrong_number(numbers: Sequence[object]) -> str | None:
    return next((f"{_short(number)} is not a number" for number in numbers if not _is_number(number)), None)


def _check_text(value: object) -> str | None:
    return _string_problem("the value", value)


def _check_histogram(value: object) -> str | None:
    if not isinstance(value, Mapping):
        return f"the value is {_short(value)}, not a map"
    edges, counts = value.get("edges"), value.get("counts")
    if not _is_list(edges) or not _is_list(counts) or not all(map(_is_number, [*edges, *counts])):
        return "edges and counts must be lists of numbers"
    if len(edges) != len(counts) + 1:
        return f"{len(counts)} counts need {len(counts) + 1} edges, not {len(edges)}"
    if not all(low <= high for low, high in pairwise(edges)):
        return "the edges must be in ascending order"
    missing = [field for field in ("min", "max", "sum", "sum_squares") if not _is_number(value.get(field))]
    return f"{missing[0]} is not a number" if missing else _map_problem(value)


def _check_media(value: object) -> str | None:
    if not isinstance(value, Mapping):
        return f"the value is {_short(value)}, not a map of data and format"
    data = value.get("data")
    if not isinstance(data, bytes) or not data:
        return "data must be the encoded bytes"
    if len(data) > MAX_VALUE_BYTES:
        return f"data has {len(data)} bytes; at most {MAX_VALUE_BYTES} are allowed"
    if not isinstance(value.get("format"), str):
        return "format must be a string such as 'png' or 'wav'"
    return _map_problem({key: item for key, item in value.items() if key != "data"})


def _check_summary(value: object) -> str | None:
    if not isinstance(value, Mapping):
        return f"the value is {_short(value)}, not a map of format, plugin and data"
    data = value.get("data")
    if not isinstance(data, bytes):
        return "data must be bytes"
    if len(data) > MAX_VALUE_BYTES:
        return f"data has {len(data)} bytes; at most {MAX_VALUE_BYTES} are allowed"
    wrong = next((field for field in _SUMMARY_TEXTS if not isinstance(value.get(field, ""), str)), None)
    if wrong or not value.get("format"):
        return f"{wrong or 'format'} must be a string" + ("" if wrong else " such as 'summary' or 'file'")
    offset = value.get("offset", 0)
    if type(offset) is not int or offset < 0:
        return f"offset is {_short(offset)}, not a position in a file"
    return _map_problem({key: item for key, item in value.items() if key != "data"})


def _check_table(value: object) -> str | None:
    if not isinstance(value, Mapping):
        return f"the value is {_short(value)}, not a map of columns and rows"
    columns, rows = value.get("columns"), value.get("rows")
    if not _is_list(columns) or not all(isinstance(column, str) for column in columns):
        return "columns must be a list of strings"
    if not _is_list(rows) or not all(map(_is_list, rows)):
        return "rows must be a list of lists"
    ragged = next((number for number, row in enumerate(rows) if len(row) != len(columns)), None)
    if ragged is not None:
        return f"row {ragged} has {len(rows[ragged])} cells for {len(columns)} columns"
    return _map_problem(value)


def _check_map(value: object) -> str | None:
    return _map_problem(value) if isinstance(value, Mapping) else f"the value is {_short(value)}, not a map"


def _check_log(value: object) -> str | None:
    if not isinstance(value, (dict, Mapping)):  # the check for a dict is faster than that for a mapping
        return f"the value is {_short(value)}, not a map"
    for field in _RECORD_FIELDS:
        if not isinstance(value.get(field), str):
            return f"{field} is not a string"
    return _map_problem(value)


_CHECKS: Final[dict[str, Callable[[object], str | None]]] = {
    "scalar": _check_scalar,
    "scalars": _check_scalars,
    "text": _check_text,
    "histogram": _check_histogram,
    "image": _check_media,
    "audio": _check_media,
    "summary": _check_summary,
    "table": _check_table,
    "hparams": _check_map,
    "log": _check_log,
    "lifecycle": _check_map,
}


def _plain_problem(value: object, depth: int = 0) -> str | None:
    """Return what in `value` is not None, a bool, number, string, bytes, or a list or map of these with string keys."""
    if value is None or isinstance(value, (bool, bytes)) or _is_number(value):
        return None
    if isinstance(value, str):
        return _string_problem("a string", value)
    if depth == MAX_NESTING:
        return f"the value is nested more than {MAX_NESTING} levels deep"
    if isinstance(value, Mapping):
        return _map_problem(value, depth)
    return _first_problem(value, depth) if _is_list(value) else f"{_short(value)} is not a plain value"


def _map_problem(value: Mapping[object, object], depth: int = 0) -> str | None:
    children = [*value, *value.values()]
    if _are_short_strings(children):
        return None
    if not all(isinstance(key, str) for key in value):
        return "a key of a map is not a string"
    return _first_problem(children, depth)


def _first_problem(children: Iterable[object], depth: int) -> str | None:
    return next((problem for child in children if (problem := _plain_problem(child, depth + 1))), None)


def _are_short_strings(values: Iterable[Any]) -> bool:
    """Return whether all are strings, short even when joined. Checking them together takes a fifth of the time."""
    try:
        size = _utf8_length("".join(values))
    except TypeError:
        return False
    return size is not None and size <= MAX_STRING_BYTES


def _string_problem(what: str, value: object) -> str | None:
    if not isinstance(value, str):
        return f"{what} is {_short(value)}, not a string"
    size = _utf8_length(value)
    if size is None:
        return f"{what}, {_short(value)}, cannot be encoded as UTF-8"
    return f"{what} has {size} bytes; at most {MAX_STRING_BYTES} are allowed" if size > MAX_STRING_BYTES else None


def _is_number(value: object) -> bool:
    kind = type(value)
    return kind is float or (kind is int and -(2**63) <= value < 2**64)  # type: ignore[operator]  # it is an int here


def _is_list(value: object) -> TypeGuard[Sequence[Any]]:
    return isinstance(value, (list, tuple))


def _utf8_length(text: str) -> int | None:
    if text.isascii():
        return len(text)
    try:
        return len(text.encode())
    except UnicodeEncodeError:
        return None


def _short(value: object) -> str:
    """Return a short `repr` for an error message. It does not raise, even if the value's `repr` does."""
    try:
        text = repr(value)
    except Exception:
        text = f"<{type(value).__name__}>"
    return text if len(text) <= 60 else f"{text[:57]}..."
