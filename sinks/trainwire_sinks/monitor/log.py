"""The last lines of a run's log, free of control characters."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import Final, NamedTuple

from trainwire_protocol.events import Event
from trainwire_sinks.text.format import one_line, plain, timestamp
from trainwire_sinks.text.lifecycle import describe_lifecycle, lifecycle_level

MAX_LINES: Final = 1000
"""Maximum number of lines that are kept."""

MAX_CHARACTERS: Final = 1000
"""Maximum number of characters of a line; longer lines are truncated."""

MAX_TRACEBACK_LINES: Final = 100
"""Maximum number of lines of an exception's traceback that are kept, counted from its end."""

LEVELS: Final = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")


class Line(NamedTuple):
    """One line of the log."""

    time: str
    """Date and time in UTC; empty if the line continues the previous one."""
    level: str
    text: str

    def __str__(self) -> str:
        return f"{self.time} {self.level:<8} {self.text}" if self.time else self.text


class Log:
    """The last lines of a run's log records, hyperparameters and lifecycle events."""

    def __init__(self, limit: int = MAX_LINES) -> None:
        self.lines: deque[Line] = deque(maxlen=limit)
        self.count = 0
        """Number of lines ever added."""

    def add(self, event: Event) -> None:
        """Add the lines of an event; only events of the types log, lifecycle and hparams have any."""
        for line in lines_of(event):
            self.append(line)

    def append(self, line: Line) -> None:
        """Add a line."""
        self.lines.append(line)
        self.count += 1

    def since(self, count: int) -> list[Line]:
        """Return the lines after the first `count`, as far as they are kept."""
        new = min(self.count - count, len(self.lines))
        return list(self.lines)[len(self.lines) - new :]

    def matching(self, text: str = "", level: str = LEVELS[0]) -> list[Line]:
        """Return the lines that contain `text`, ignoring case, and are of this level or above."""
        text, least = text.lower(), level_number(level)
        return [line for line in self.lines if text in line.text.lower() and level_number(line.level) >= least]


def lines_of(event: Event) -> Iterator[Line]:
    """Yield the lines of an event."""
    level, first, rest = _describe(event)
    if first:
        yield Line(timestamp(event.walltime, separator=" "), one_line(level), _truncate(first))
        yield from (Line("", one_line(level), f"    {_truncate(line)}") for line in rest[-MAX_TRACEBACK_LINES:])


def level_number(level: str) -> int:
    """Return the position of a level among the standard ones; a custom level counts as INFO."""
    return LEVELS.index(level) if level in LEVELS else LEVELS.index("INFO")


def _describe(event: Event) -> tuple[str, str, list[str]]:
    """Return the level of an event, its first line and further lines."""
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


def _truncate(text: str) -> str:
    return one_line(text[:MAX_CHARACTERS])[:MAX_CHARACTERS]
