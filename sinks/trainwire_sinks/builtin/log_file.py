"""Writes what the training process logged, and what happened to the run."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from typing import Final

from trainwire_protocol.events import Event
from trainwire_sinks.runtime.sink import AppendSink
from trainwire_sinks.text.format import cut, one_line, plain, timestamps
from trainwire_sinks.text.lifecycle import describe_lifecycle, lifecycle_level

MAX_PARAMETER_CHARACTERS: Final = 1000
"""Maximum length of a hyperparameter, in characters; a longer one is shortened."""


class LogFile(AppendSink):
    """Writes training.log: log records, hyperparameters and what happened to the run, each with its time and level.

    Nothing is removed when a run is resumed: a line marks where it continues.
    """

    name = "log-file"
    file_name = "training.log"
    keeps_superseded = True

    async def handle(self, events: Sequence[Event]) -> None:
        """Append the lines of log records, hyperparameters and lifecycle events."""
        await self.output.write(format_events(events))


def format_events(events: Iterable[Event]) -> str:
    """Return the lines of events, each with its time and level; events of other types have none."""
    found = [(event.walltime, form(event)) for event in events if (form := _FORMATTERS.get(event.type))]
    times = timestamps([walltime for walltime, _ in found], separator=" ")
    return "".join([f"{time} {lines}" for time, (_, lines) in zip(times, found, strict=True) if lines])


def _format_record(event: Event) -> str:
    record = event.value
    lines = f"{_prefix(record['level'], record['logger'])}{one_line(record['message'])}\n"
    for field in ("exception", "stack"):
        trace = record.get(field)
        if isinstance(trace, str):
            lines += "".join(f"    {one_line(line)}\n" for line in trace.splitlines())
    return lines


def _format_hparams(event: Event) -> str:
    parameters = "".join(
        f"    {one_line(name)}: {cut(plain(value), MAX_PARAMETER_CHARACTERS)}\n" for name, value in event.value.items()
    )
    return f"{_prefix('INFO')}parameters:\n{parameters}"


def _format_lifecycle(event: Event) -> str:
    description = describe_lifecycle(event)
    return f"{_prefix(lifecycle_level(event))}{description}\n" if description else ""


_FORMATTERS: Final[dict[str, Callable[[Event], str]]] = {
    "log": _format_record,
    "hparams": _format_hparams,
    "lifecycle": _format_lifecycle,
}
"""The function that formats events of each type, without their time; it returns "" for an event without a line."""


@lru_cache(maxsize=64)
def _prefix(level: str, logger: str | None = None) -> str:
    """Return what precedes a message; cached, because there are few levels and loggers, and many messages."""
    return f"{one_line(level):<8} " + (f"{one_line(logger)}: " if logger is not None else "")
