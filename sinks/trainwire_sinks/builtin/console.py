"""A line on standard output for each thing that matters, for `docker logs` and whoever looks on."""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from trainwire_protocol.errors import OutputError
from trainwire_protocol.events import Event
from trainwire_sinks.runtime.base import Sink
from trainwire_sinks.text.format import one_line, timestamp
from trainwire_sinks.text.lifecycle import describe_lifecycle, lifecycle_level
from trainwire_sinks.text.terminal import has_colours

QUIET: Final = frozenset({"epoch/started", "learning_rate/changed"})
"""What stands in the log file, and would be too much here: the lines that follow it say as much."""

COLOURS: Final = {"WARNING": "\x1b[33m", "ERROR": "\x1b[31m", "CRITICAL": "\x1b[1;31m"}
PLAIN: Final = "\x1b[0m"


@dataclass(frozen=True)
class Options:
    """What `--help` shows of them is in their docstrings."""

    level: Literal["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"] = "WARNING"
    """Log records below this level are left out; what happens to the run is not."""


class Console(Sink):
    """Prints a line for each thing that matters: start, epochs, evaluations, checkpoints, warnings, the end.

    Each is printed once: started again it goes on where it was. What a resumed run has superseded cannot be taken
    back; a line marks the seam. To look at a run at any time there is `trainwire tail`.
    """

    name = "console"
    keeps_superseded = True
    options: Options = Options()
    output: StandardOutput

    def make_output(self, folder: Path, rank: int) -> StandardOutput:  # noqa: ARG002  # it writes no file
        """Standard output; the lines of any rank but 0 begin with their rank."""
        return StandardOutput(f"rank {rank} | " if rank else "")

    async def handle(self, events: Sequence[Event]) -> None:
        """Print the batch's lines."""
        for event in events:
            kind, text = self._tell(event)
            if text:
                self.output.add(kind, f"{timestamp(event.walltime, 'seconds', ' ')} {one_line(kind):<8} {text}")

    def _tell(self, event: Event) -> tuple[str, str]:
        """An event's level and what it says; nothing if it does not matter enough."""
        if event.type == "lifecycle":
            return lifecycle_level(event), "" if event.name in QUIET else describe_lifecycle(event)
        if event.type == "log" and _rank_of(event.value["level"]) >= _rank_of(self.options.level):
            return event.value["level"], _tell_record(event)
        return "", ""


def _rank_of(name: str) -> float:
    """The number of a level's name; one that somebody has made up always matters."""
    return logging.getLevelNamesMapping().get(name, float("inf"))


def _tell_record(event: Event) -> str:
    """A log record with the last line of its traceback, which says what was wrong."""
    value = event.value
    exception = value.get("exception")
    lines = exception.split("\n") if isinstance(exception, str) else []
    last = next((line for line in reversed(lines) if line.strip()), "")
    return one_line(f"{value['logger']}: {value['message']}" + (f" ({last.strip()})" if last else ""))


class StandardOutput:
    """An output of lines, which go out when they are committed, and cannot be taken back."""

    length = 0

    def __init__(self, prefix: str = "") -> None:
        self._prefix = prefix
        self._waiting: list[str] = []

    def add(self, kind: str, line: str) -> None:
        """Have a line printed, in the colour of its level."""
        colour = COLOURS.get(kind, "") if has_colours(sys.stdout) else ""
        self._waiting.append(f"{colour}{self._prefix}{line}{colour and PLAIN}\n")

    def exists(self) -> bool:
        """There is never anything that could be in the way."""
        return False

    async def open(self, length: int) -> None:
        """Nothing is to be done."""

    async def flush(self) -> None:
        """Print what waits.

        Raises:
            OutputError: nobody reads it any more.
        """
        waiting, self._waiting = self._waiting, []
        if waiting:
            # In a thread: whoever reads a pipe may pause, and the run is to be followed all the same.
            await asyncio.to_thread(_print, "".join(waiting))

    async def close(self) -> None:
        """What waits is dropped."""
        self._waiting = []


def _print(text: str) -> None:
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except BrokenPipeError as error:
        raise OutputError("nobody reads the standard output any more") from error
