"""Finds sinks by name: the modules of `trainwire_sinks.builtin`, and those that other packages register.

Another package registers a sink by an entry point in the group `trainwire.sinks`, which maps the sink's name to its
class. A sink that is not registered is named as `module:Class`.
"""

from __future__ import annotations

import sys
from importlib import import_module, metadata
from importlib.util import find_spec

from trainwire_protocol.environment import (
    BUILTIN_SINKS,
    SINK_GROUP,
    builtin_sink_names,
    sink_names,
    unknown_sink_message,
)
from trainwire_protocol.errors import MissingExtraError, SinkLoadError, UsageError
from trainwire_sinks.runtime.sink import Sink


def find_sink(name: str) -> type[Sink]:
    """Return the sink called `name`, or the class at `module:Class`, which may be in the working directory.

    Raises:
        UsageError: there is no such sink; the message lists all names.
        MissingExtraError: a package that the sink needs is not installed.
        SinkLoadError: a sink of another package cannot be imported, or is not a sink.
    """
    sink = _import_builtin(name) if name in builtin_sink_names() else _import_third_party(name)
    missing = [package for package in sink.packages if find_spec(package) is None]
    if missing:
        raise MissingExtraError(f"the sink {name}", sink.extra, " and ".join(missing))
    return sink


def describe_sink(name: str) -> str:
    """Return one line about what a sink does, or why it cannot be used."""
    try:
        return summary(find_sink(name))
    except UsageError as error:
        return f"not usable: {error}"


def summary(sink: type[Sink]) -> str:
    """Return the first line of a sink's docstring."""
    return (sink.__doc__ or "").strip().partition("\n")[0]


def _import_builtin(name: str) -> type[Sink]:
    module = import_module(f"{BUILTIN_SINKS}.{name.replace('-', '_')}")
    defined = [value for value in vars(module).values() if getattr(value, "__module__", None) == module.__name__]
    return next(value for value in defined if isinstance(value, type) and issubclass(value, Sink))


def _import_third_party(name: str) -> type[Sink]:
    if ":" in name:
        sys.path.insert(0, "")
        point = metadata.EntryPoint(name, name, SINK_GROUP)
    else:
        points = list(metadata.entry_points(group=SINK_GROUP, name=name))
        if not points:
            raise UsageError(unknown_sink_message(name, sink_names()))
        point = points[0]
    try:
        sink = point.load()
    except Exception as error:
        raise SinkLoadError(f"the sink {name} ({point.value}) cannot be loaded: {error!r}") from error
    if not (isinstance(sink, type) and issubclass(sink, Sink)):
        raise SinkLoadError(f"the sink {name} ({point.value}) is not a subclass of trainwire_sinks.Sink")
    return sink
