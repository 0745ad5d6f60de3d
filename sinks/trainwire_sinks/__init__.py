"""What runs outside the training process: the sinks, their runner and the `trainwire` command.

Who writes a sink needs `AppendSink` or `ReplaceSink` (files), or `Sink` (anything else); `docs/add-a-sink.md` walks
through one. Nothing here imports torch.
"""

from trainwire_protocol.events import Event
from trainwire_sinks.base import AppendSink, ReplaceSink, Sink, State
from trainwire_sinks.output import AppendOutput, Output, OutputChangedError, ReplaceOutput
from trainwire_sinks.series import SeriesOutput

__all__ = [
    "AppendOutput",
    "AppendSink",
    "Event",
    "Output",
    "OutputChangedError",
    "ReplaceOutput",
    "ReplaceSink",
    "SeriesOutput",
    "Sink",
    "State",
]
