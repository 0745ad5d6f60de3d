"""Prints what happens to a run, for `docker logs` and people at a terminal."""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from trainwire_protocol.errors import OutputError
from trainwire_protocol.events import Event
from trainwire_sinks.runtime.output import NoOutput
from trainwire_sinks.runtime.sink import Sink
from trainwire_sinks.text.format import one_line, timestamp
from trainwire_sinks.text.lifecycle import describe_lifecycle, lifecycle_level
from trainwire_sinks.text.terminal import discard_output, has_colors

OMITTED: Final = frozenset({"epoch/started", "learning_rate/changed"})
"""Lifecycle events that are in the log file but not printed, because later lines imply them."""

COLORS: Final = {"WARNING": "\x1b[33m", "ERROR": "\x1b[31m", "CRITICAL": "\x1b[1;31m"}
RESET: Final = "\x1b[0m"


@dataclass(frozen=True)
class Options:
    """The options of the sink; the docstrings are their help."""

    level: Literal["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"] = "WARNING"
    """Omit log records below this level; what happens to the run is always printed."""


class Console(Sink):
    """Prints a line for each important event: start, epochs, evaluations, checkpoints, warnings, the end.

    Each line is printed once: a restarted sink continues where it stopped. Lines that a resumed run has superseded
    cannot be removed; a line marks where the run continues. To look at a run at any time, use `trainwire tail`.
    """

    name = "console"
    keeps_superseded = True
    options: Options = Options()
    output: StandardOutput

    def make_output(self, folder: Path, rank: int) -> StandardOutput:  # noqa: ARG002  # it writes no file
        """Return standard output; the lines of any rank but 0 start with the rank."""
        return StandardOutput(f"rank {rank} | " if rank else "")

    async def handle(self, events: Sequence[Event]) -> None:
        """Print the lines of the events at the next flush."""
        for event in events:
            level, text = self._format(event)
            if text:
                self.output.add(level, f"{timestamp(event.walltime, 'seconds', ' ')} {one_line(level):<8} {text}")

    def _format(self, event: Event) -> tuple[str, str]:
        """Return the level and the text of an event; empty if it is not printed."""
        if event.type == "lifecycle" and event.name not in OMITTED:
            return lifecycle_level(event), describe_lifecycle(event)
        if event.type == "log" and _severity(event.value["level"]) >= _severity(self.options.level):
            return event.value["level"], _format_record(event.value)
        return "", ""


def _severity(level: str) -> float:
    """Return the number of a level; that of an unknown one is infinite, so that its records are always printed."""
    return logging.getLevelNamesMapping().get(level, float("inf"))


def _format_record(record: dict[str, Any]) -> str:
    """Return a log record with the last line of its traceback, which names the exception."""
    traceback = record.get("exception")
    lines = traceback.split("\n") if isinstance(traceback, str) else []
    exception = next((line for line in reversed(lines) if line.strip()), "")
    return one_line(f"{record['logger']}: {record['message']}" + (f" ({exception.strip()})" if exception else ""))


class StandardOutput(NoOutput):
    """An output of lines, which are printed when they are committed and cannot be removed."""

    def __init__(self, prefix: str = "") -> None:
        self._prefix = prefix
        self._lines: list[str] = []

    def add(self, level: str, line: str) -> None:
        """Add a line, in the color of its level."""
        color = COLORS.get(level, "") if has_colors(sys.stdout) else ""
        self._lines.append(f"{color}{self._prefix}{line}{color and RESET}\n")

    async def flush(self) -> None:
        """Print the added lines.

        Raises:
            OutputError: the reader of standard output has closed it.
        """
        lines, self._lines = self._lines, []
        if lines:
            # In a thread, because the reader of a pipe may pause while the sink must keep reading the run.
            await asyncio.to_thread(_print, "".join(lines))

    async def close(self) -> None:
        """Drop the lines that were not printed."""
        self._lines = []


def _print(text: str) -> None:
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except BrokenPipeError as error:
        discard_output(sys.stdout)
        raise OutputError("standard output was closed by its reader") from error
