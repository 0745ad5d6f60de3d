"""Which sinks there are: the modules of `trainwire_sinks.builtin`, and what other packages register.

Another package registers a sink by an entry point of the group `trainwire.sinks`: its name, and the class. One that is
not registered is named by where it stands, as `module:Class`.
"""

from __future__ import annotations

import difflib
import pkgutil
import sys
from importlib import import_module, metadata
from importlib.util import find_spec
from typing import Final

from trainwire_protocol.errors import MissingExtraError, UsageError
from trainwire_sinks import builtin
from trainwire_sinks.runtime.base import Sink

ENTRY_POINTS: Final = "trainwire.sinks"


class SinkLoadError(UsageError):
    """A sink that is not one of Trainwire's own and cannot be imported, or that is none."""


def sink_names() -> list[str]:
    """The names of all sinks, sorted; nothing is imported for them."""
    return sorted({*_builtin_names(), *(point.name for point in metadata.entry_points(group=ENTRY_POINTS))})


def find_sink(name: str) -> type[Sink]:
    """The sink called `name`, or that stands at `module:Class`; the module may be in the working directory.

    Raises:
        UsageError: there is none; lists those there are.
        MissingExtraError: it needs packages that are not installed.
        SinkLoadError: it is not one of Trainwire's own, and broken.
    """
    sink = _load(name)
    missing = [package for package in sink.packages if find_spec(package) is None]
    if missing:
        raise MissingExtraError(f"the sink {name}", sink.extra, " and ".join(missing))
    return sink


def describe_sink(name: str) -> str:
    """One line on what a sink does, or why it cannot be used."""
    try:
        return summary(find_sink(name))
    except UsageError as error:
        return f"not usable: {error}"


def summary(sink: type[Sink]) -> str:
    """The first line of a sink's docstring."""
    return (sink.__doc__ or "").strip().partition("\n")[0]


def _builtin_names() -> list[str]:
    return [module.name.replace("_", "-") for module in pkgutil.iter_modules(builtin.__path__)]


def _load(name: str) -> type[Sink]:
    if name in _builtin_names():
        return _class_of(name)
    points = list(metadata.entry_points(group=ENTRY_POINTS, name=name))
    if ":" in name:
        sys.path.insert(0, "")
        points = [metadata.EntryPoint(name, name, ENTRY_POINTS)]
    if not points:
        raise UsageError(_unknown(name))
    return _load_point(points[0])


def _load_point(point: metadata.EntryPoint) -> type[Sink]:
    try:
        sink = point.load()
    except Exception as error:
        raise SinkLoadError(f"the sink {point.name} ({point.value}) cannot be loaded: {error!r}") from error
    if not (isinstance(sink, type) and issubclass(sink, Sink)):
        raise SinkLoadError(f"the sink {point.name} ({point.value}) is no subclass of trainwire_sinks.Sink")
    return sink


def _class_of(name: str) -> type[Sink]:
    """The one sink that the module of a built-in one defines."""
    module = import_module(f"{builtin.__name__}.{name.replace('-', '_')}")
    defined = [value for value in vars(module).values() if getattr(value, "__module__", None) == module.__name__]
    return next(value for value in defined if isinstance(value, type) and issubclass(value, Sink))


def _unknown(name: str) -> str:
    names = sink_names()
    close = difflib.get_close_matches(name, names, n=1)
    hint = f"did you mean {close[0]}? " if close else ""
    return f"there is no sink {name!r}: {hint}the sinks are {', '.join(names)}"
