"""The log file: what a run's process logged and what happened to the run, line by line."""

from __future__ import annotations

from collections.abc import Sequence

from trainwire_protocol.events import Event
from trainwire_sinks.base import AppendSink
from trainwire_sinks.sentences import Fields, level, sentence
from trainwire_sinks.text import one_line, plain, timestamp


class LogFile(AppendSink):
    """Writes training.log: what was logged, and what happened, each with its time and level.

    Nothing is ever taken out of it: where a run was resumed, a line marks the seam.
    """

    name = "log-file"
    file_name = "training.log"
    keeps_superseded = True

    async def handle(self, events: Sequence[Event]) -> None:
        """Write the lines of the batch's log records, hyperparameters and lifecycle events."""
        await self.output.write("".join(map(format_event, events)))


def format_event(event: Event) -> str:
    """The lines of an event; none for a type that is no matter of a log."""
    if event.type == "log":
        return _format_record(event)
    if event.type == "hparams":
        return _format_line(event, "INFO", "parameters:") + _format_fields(event.value)
    if event.type == "lifecycle" and (told := sentence(event)):
        return _format_line(event, level(event), told)
    return ""


def _format_line(event: Event, level: str, message: str) -> str:
    return f"{timestamp(event.walltime, separator=' ')} {one_line(level):<8} {one_line(message)}\n"


def _format_record(event: Event) -> str:
    value = event.value
    line = _format_line(event, value["level"], f"{value['logger']}: {value['message']}")
    exception = value.get("exception")
    if not isinstance(exception, str):
        return line
    return line + "".join(f"    {one_line(text)}\n" for text in exception.splitlines())


def _format_fields(fields: Fields) -> str:
    return "".join(f"    {one_line(name)}: {plain(value)}\n" for name, value in fields.items())
