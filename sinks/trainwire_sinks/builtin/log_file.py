"""The log file: what a run's process logged and what happened to the run, line by line."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from typing import Final

from trainwire_protocol.events import Event
from trainwire_sinks.runtime.base import AppendSink
from trainwire_sinks.text.format import one_line, plain, timestamps
from trainwire_sinks.text.lifecycle import Fields, describe_lifecycle, lifecycle_level


class LogFile(AppendSink):
    """Writes training.log: what was logged, and what happened, each with its time and level.

    Nothing is ever taken out of it: where a run was resumed, a line marks the seam.
    """

    name = "log-file"
    file_name = "training.log"
    keeps_superseded = True

    async def handle(self, events: Sequence[Event]) -> None:
        """Write the lines of the batch's log records, hyperparameters and lifecycle events."""
        await self.output.write(format_events(events))


def format_events(events: Iterable[Event]) -> str:
    """The lines of events, each with its time and level; none for a type that is no matter of a log."""
    told = [(event.walltime, tell(event)) for event in events if (tell := _TELLERS.get(event.type))]
    times = timestamps([walltime for walltime, _ in told], separator=" ")
    return "".join([f"{time} {lines}" for time, (_, lines) in zip(times, told, strict=True) if lines])


def _tell_record(event: Event) -> str:
    record: Fields = event.value
    line = f"{_beginning(record['level'], record['logger'])}{one_line(record['message'])}\n"
    return line + _tell_traceback(record["exception"]) if "exception" in record else line


def _tell_traceback(traceback: object) -> str:
    lines = traceback.splitlines() if isinstance(traceback, str) else []
    return "".join(f"    {one_line(line)}\n" for line in lines)


def _tell_parameters(event: Event) -> str:
    parameters = "".join(f"    {one_line(name)}: {plain(value)}\n" for name, value in event.value.items())
    return f"{_beginning('INFO')}parameters:\n{parameters}"


def _tell_what_happened(event: Event) -> str:
    told = describe_lifecycle(event)
    return f"{_beginning(lifecycle_level(event))}{told}\n" if told else ""


_TELLERS: Final[dict[str, Callable[[Event], str]]] = {
    "log": _tell_record,
    "hparams": _tell_parameters,
    "lifecycle": _tell_what_happened,
}
"""What the lines of an event are behind its time, by its type; empty if it is no news."""


@lru_cache(maxsize=64)
def _beginning(level: str, logger: str | None = None) -> str:
    """What stands before a message: there are few of these, and many messages."""
    return f"{one_line(level):<8} " + (f"{one_line(logger)}: " if logger is not None else "")
