"""Formats the values of events so that nothing that was logged can break a line or control a terminal."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from functools import lru_cache
from typing import Final, Literal

CALENDAR_END: Final = 253_402_300_800
"""The end of the last year that `datetime` supports, in seconds since the epoch."""

ROUNDED_UP: Final = 999_999.5
"""Microseconds at which a time is rounded up to the next second."""

_MILLISECONDS: Final = tuple(f".{number:03}+00:00" for number in range(1000))
"""The part of a timestamp after the second, in UTC."""


def one_line(text: str) -> str:
    """Return `text` with unprintable characters escaped as in a Python string."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def timestamp(
    walltime: float, timespec: Literal["seconds", "milliseconds"] = "milliseconds", separator: str = "T"
) -> str:
    """Return a time, in seconds since the epoch, in ISO 8601: UTC with its offset.

    The result equals that of `datetime.isoformat` and is computed faster. A time that `datetime` cannot represent is
    returned as "@" followed by the number.
    """
    try:
        whole = int(walltime)
        carried, microseconds = divmod(round((walltime - whole) * 1e6), 1_000_000)
        second = _date_and_time(whole + carried, separator)
    except (ValueError, OverflowError, OSError):
        return f"@{walltime!r}"
    return f"{second}.{microseconds // 1000:03}+00:00" if timespec == "milliseconds" else f"{second}+00:00"


def timestamps(walltimes: Iterable[float], separator: str = "T") -> Iterator[str]:
    """Yield the `timestamp` of each time, faster when many consecutive ones are within a second."""
    start, second = math.inf, ""
    for walltime in walltimes:
        microseconds = (walltime - start) * 1e6
        if 0 <= microseconds < ROUNDED_UP:
            yield second + _MILLISECONDS[round(microseconds) // 1000]
            continue
        yield timestamp(walltime, separator=separator)
        if 0 <= walltime < CALENDAR_END:
            start = walltime // 1  # a float, because floats are subtracted faster
            second = _date_and_time(int(start), separator)


@lru_cache(maxsize=64)
def _date_and_time(second: int, separator: str) -> str:
    return datetime.fromtimestamp(second, UTC).replace(tzinfo=None).isoformat(separator)


def number(value: object) -> str:
    """Return a number as text for people: a float has six significant digits, so that 5e-5 is not rounded to 0."""
    return f"{value:.6g}" if isinstance(value, float) else one_line(str(value))


def plain(value: object) -> str:
    """Return any value of an event on one line: numbers as `number` formats them, maps and lists as JSON."""
    if isinstance(value, str):
        return one_line(value)
    if isinstance(value, (Mapping, list, tuple)):
        return one_line(json.dumps(value, ensure_ascii=False, default=repr))
    return number(value)


def cut(text: str, length: int) -> str:
    """Return `text`, shortened to `length` characters if it is longer."""
    return text if len(text) <= length else f"{text[: length - 1]}…"


def duration(seconds: float) -> str:
    """Return a duration in its two largest units: `1 h 03 min`."""
    minutes, rest = divmod(int(min(seconds, 1e9)), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    if days:
        return f"{days} d {hours:02} h"
    if hours:
        return f"{hours} h {minutes:02} min"
    return f"{minutes} min {rest:02} s" if minutes else f"{rest} s"
