"""Text of events in files and terminals: nothing that was logged may break a line or steer a terminal."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from functools import lru_cache
from typing import Final, Literal

END_OF_CALENDAR: Final = 253_402_300_800
"""The first second that no date has, since the epoch."""

LAST_MICROSECOND: Final = 999_999.5
"""Where a second ends for what is rounded to microseconds: the rest is rounded into the next one."""

_MILLISECONDS: Final = tuple(f".{number:03}+00:00" for number in range(1000))
"""What stands behind the second, in UTC."""


def one_line(text: str) -> str:
    """`text` with everything but printable characters and spaces escaped as Python would."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def timestamp(
    walltime: float, timespec: Literal["seconds", "milliseconds"] = "milliseconds", separator: str = "T"
) -> str:
    """`walltime`, in seconds since the epoch, in ISO 8601: UTC, with its offset. What `datetime` writes, sooner."""
    try:
        whole = int(walltime)
        carried, microseconds = divmod(round((walltime - whole) * 1e6), 1_000_000)
        second = _date_and_time(whole + carried, separator)
    except (ValueError, OverflowError, OSError):
        return f"@{walltime!r}"
    return f"{second}.{microseconds // 1000:03}+00:00" if timespec == "milliseconds" else f"{second}+00:00"


def timestamps(walltimes: Iterable[float], separator: str = "T") -> Iterator[str]:
    """The `timestamp` of each, sooner where many follow each other within a second."""
    start, second = math.inf, ""
    for walltime in walltimes:
        microseconds = (walltime - start) * 1e6
        if 0 <= microseconds < LAST_MICROSECOND:
            yield second + _MILLISECONDS[round(microseconds) // 1000]
            continue
        yield timestamp(walltime, separator=separator)
        if 0 <= walltime < END_OF_CALENDAR:
            start = walltime // 1  # a float, as the difference of two of them is had sooner
            second = _date_and_time(int(start), separator)


@lru_cache(maxsize=64)
def _date_and_time(second: int, separator: str) -> str:
    return datetime.fromtimestamp(second, UTC).replace(tzinfo=None).isoformat(separator)


def number(value: object) -> str:
    """A number for a person's eyes: six significant digits, so that 5e-5 stays what it is."""
    return f"{value:.6g}" if isinstance(value, float) else one_line(str(value))


def plain(value: object) -> str:
    """Any value of an event on one line: numbers for a person's eyes, maps and lists as JSON."""
    if isinstance(value, str):
        return one_line(value)
    if isinstance(value, (Mapping, list, tuple)):
        return one_line(json.dumps(value, ensure_ascii=False, default=repr))
    return number(value)


def cut(text: str, length: int) -> str:
    """`text`, or its beginning if it has more than `length` characters."""
    return text if len(text) <= length else f"{text[: length - 1]}…"


def duration(seconds: float) -> str:
    """A length of time in its two largest units: `1 h 03 min`."""
    minutes, rest = divmod(int(min(seconds, 1e9)), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    if days:
        return f"{days} d {hours:02} h"
    if hours:
        return f"{hours} h {minutes:02} min"
    return f"{minutes} min {rest:02} s" if minutes else f"{rest} s"
