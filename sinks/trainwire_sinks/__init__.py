"""What runs outside the training process: the sinks, their runner and the `trainwire` command.

Who writes a sink needs `AppendSink` or `ReplaceSink` (files), or `Sink` (anything else); `docs/add-a-sink.md` walks
through one. Nothing here imports torch.
"""

from trainwire_protocol.events import Event
from trainwire_sinks.runtime.base import AppendSink, ReplaceSink, Sink, State
from trainwire_sinks.runtime.output import AppendOutput, Output, OutputChangedError, ReplaceOutput, SeriesOutput

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
