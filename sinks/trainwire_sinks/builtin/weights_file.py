"""Writes how selected weights change, for plotting scripts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from trainwire_protocol.events import Event
from trainwire_sinks.runtime.sink import AppendSink
from trainwire_sinks.text.format import one_line

PREFIX: Final = "weights/"
"""Prefix of the events' names; the name of the parameter follows."""


class WeightsFile(AppendSink):
    """Writes weights.txt: a line with step, parameter, index and value for each weight that was extracted.

    The four columns are separated by tabs, without a header, as in flair. The index is the position in the parameter
    (`0,3`: row 0, column 3), and the value is in full precision.
    """

    name = "weights-file"
    file_name = "weights.txt"

    async def handle(self, events: Sequence[Event]) -> None:
        """Append a line for each weight."""
        await self.output.write("".join(line for event in events for line in format_weights(event)))


def format_weights(event: Event) -> list[str]:
    """Return the lines of an event that holds weights; none for any other event."""
    if event.type != "scalars" or not event.name.startswith(PREFIX) or not isinstance(event.value, Mapping):
        return []
    parameter = one_line(event.name.removeprefix(PREFIX))
    return [f"{event.step}\t{parameter}\t{one_line(str(index))}\t{value!r}\n" for index, value in event.value.items()]
