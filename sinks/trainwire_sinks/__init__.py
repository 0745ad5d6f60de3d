"""What runs outside the training process: the sinks, their runner and the `trainwire` command.

To write a sink, subclass `AppendSink` or `ReplaceSink` if it writes a file, and `Sink` otherwise;
`docs/add-a-sink.md` walks through an example. Nothing in this package imports torch.

The names are imported on first use, so that `import trainwire_sinks` is cheap.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from trainwire_protocol.errors import OutputChangedError
    from trainwire_protocol.events import Event
    from trainwire_sinks.runtime.output import AppendOutput, Output, ReplaceOutput, SeriesOutput
    from trainwire_sinks.runtime.sink import AppendSink, ReplaceSink, Sink, State

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

_NAMES: Final = {
    "trainwire_protocol.errors": ("OutputChangedError",),
    "trainwire_protocol.events": ("Event",),
    "trainwire_sinks.runtime.sink": ("AppendSink", "ReplaceSink", "Sink", "State"),
    "trainwire_sinks.runtime.output": ("AppendOutput", "Output", "ReplaceOutput", "SeriesOutput"),
}
_MODULES: Final = {name: module for module, names in _NAMES.items() for name in names}


def __getattr__(name: str) -> object:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(_MODULES[name]), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
