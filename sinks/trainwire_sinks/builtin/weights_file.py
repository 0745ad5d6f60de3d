"""The weights file: how chosen weights moved, as lines for plotting scripts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from trainwire_protocol.events import Event
from trainwire_sinks.runtime.base import AppendSink
from trainwire_sinks.text.format import one_line

PREFIX: Final = "weights/"
"""What the names of the events begin with; the parameter's name follows."""


class WeightsFile(AppendSink):
    """Writes weights.txt: a line with step, parameter, index and value for each weight that was extracted.

    Four columns with tabs between and no heading, as in flair. The index is the place in the parameter (`0,3`: row 0,
    column 3), the value in full precision.
    """

    name = "weights-file"
    file_name = "weights.txt"

    async def handle(self, events: Sequence[Event]) -> None:
        """Write a line for each weight; anything else of this name and type is skipped."""
        await self.output.write("".join(line for event in events for line in format_weights(event)))


def format_weights(event: Event) -> list[str]:
    """The lines of an event that holds weights; none of any other."""
    if event.type != "scalars" or not event.name.startswith(PREFIX) or not isinstance(event.value, Mapping):
        return []
    parameter = one_line(event.name.removeprefix(PREFIX))
    return [f"{event.step}\t{parameter}\t{one_line(str(at))}\t{value!r}\n" for at, value in event.value.items()]
