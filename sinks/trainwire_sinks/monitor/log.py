"""The end of a run's log, as lines that cannot steer a terminal."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import Final, NamedTuple

from trainwire_protocol.events import Event
from trainwire_sinks.text.format import one_line, plain, timestamp
from trainwire_sinks.text.lifecycle import describe_lifecycle, lifecycle_level

MAX_LINES: Final = 1000
"""Lines of the log that are kept."""

MAX_CHARACTERS: Final = 1000
"""Longest line that is kept; what is behind is cut off."""

MAX_TRACEBACK: Final = 100
"""Lines of an exception's traceback that are kept: the last ones say what was wrong."""

LEVELS: Final = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")


class Line(NamedTuple):
    """One line of the log."""

    time: str
    """Date and time in UTC; empty if the line goes on with what the one before has begun."""
    level: str
    text: str

    def __str__(self) -> str:
        return f"{self.time} {self.level:<8} {self.text}" if self.time else self.text


class Log:
    """The last lines of what was logged and what happened."""

    def __init__(self, limit: int = MAX_LINES) -> None:
        self.lines: deque[Line] = deque(maxlen=limit)
        self.count = 0
        """Lines that there ever were."""

    def add(self, event: Event) -> None:
        """Take an event; one that is no matter of a log adds no line."""
        for line in lines_of(event):
            self.put(line)

    def put(self, line: Line) -> None:
        """Add a line."""
        self.lines.append(line)
        self.count += 1

    def since(self, count: int) -> list[Line]:
        """The lines after the first `count`, as far as they are kept."""
        new = min(self.count - count, len(self.lines))
        return list(self.lines)[len(self.lines) - new :]

    def matching(self, text: str = "", least: str = LEVELS[0]) -> list[Line]:
        """The lines that hold `text`, in any case, and whose level is `least` or above."""
        wanted = text.lower()
        return [line for line in self.lines if wanted in line.text.lower() and rank_of(line.level) >= rank_of(least)]


def lines_of(event: Event) -> Iterator[Line]:
    """The lines of an event."""
    kind, first, rest = _tell(event)
    if first:
        yield Line(timestamp(event.walltime, separator=" "), one_line(kind), _shorten(first))
        yield from (Line("", one_line(kind), f"    {_shorten(line)}") for line in rest[-MAX_TRACEBACK:])


def rank_of(level: str) -> int:
    """The place of a level among the usual ones; others rank as INFO."""
    return LEVELS.index(level) if level in LEVELS else LEVELS.index("INFO")


def _tell(event: Event) -> tuple[str, str, list[str]]:
    """The level of an event, what it says, and further lines."""
    value = event.value
    if event.type == "lifecycle":
        return lifecycle_level(event), describe_lifecycle(event), []
    if event.type == "hparams":
        return "INFO", "parameters: " + ", ".join(f"{name} {plain(item)}" for name, item in value.items()), []
    if event.type == "log":
        exception = value.get("exception")
        traceback = exception.splitlines() if isinstance(exception, str) else []
        return value["level"], f"{value['logger']}: {value['message']}", traceback
    return "", "", []


def _shorten(text: str) -> str:
    return one_line(text[:MAX_CHARACTERS])[:MAX_CHARACTERS]
