"""Events of type `summary`: what other writers of event files have made for TensorBoard, which is written unchanged.

Most contain a value of a summary, and some another part of an event file. A *template* says how the values of later
events of a name and type are written: with which tag and metadata, and into which run.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

# TensorBoard publishes no types.
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from tensorboard.compat.proto import event_pb2, summary_pb2, types_pb2  # type: ignore[import-untyped]

from trainwire_protocol.errors import InvalidEventError
from trainwire_protocol.events import Event
from trainwire_sinks.tensorboard.event_files import FilePart, file_path, run_path


class Placed(NamedTuple):
    """A value of a summary, and the run below the rank that it belongs to; empty for the rank itself."""

    run: str
    value: summary_pb2.Summary.Value


class Templates:
    """How the values of events of some names and types are written, until the attempt ends."""

    def __init__(self, state: Mapping[str, Any]) -> None:
        self._templates: dict[str, dict[str, list[str]]] = state.get("templates", {})
        """For each type and name, the run and the data of a template, in hexadecimal."""

    def state(self) -> dict[str, Any]:
        """Return what is needed to resume, as a map for JSON."""
        return self._templates

    def clear(self) -> None:
        """Forget all of them: an attempt begins."""
        self._templates = {}

    def add(self, event: Event) -> None:
        """Add a template.

        Raises:
            InvalidEventError: it is invalid.
        """
        _parse(summary_pb2.Summary.Value, event.value["data"])
        found = [event.value.get("run", ""), event.value["data"].hex()]
        self._templates.setdefault(str(event.value.get("type", "scalar")), {})[event.name] = found

    def apply(self, event: Event) -> list[Placed] | None:
        """Return the values of an event as its template says; None if it has no template.

        Raises:
            InvalidEventError: there are no templates for its type.
        """
        found = self._templates.get(event.type, {}).get(event.name)
        if found is None:
            return None
        run, data = found[0], bytes.fromhex(found[1])
        if not data:
            return []
        template = _parse(summary_pb2.Summary.Value, data)
        if event.type == "scalars":
            labelled = event.value.items() if isinstance(event.value, Mapping) else enumerate(event.value)
            return [Placed(run_path(f"{run}_{label}"), _fill(template, number)) for label, number in labelled]
        if event.type not in ("scalar", "text"):
            raise InvalidEventError(f"there are no templates for the type {event.type}")
        return [Placed(run and run_path(run), _fill(template, event.value))]


def _fill(template: summary_pb2.Summary.Value, value: Any) -> summary_pb2.Summary.Value:
    """Return a copy of a template that contains a number or a text."""
    filled = summary_pb2.Summary.Value()
    filled.CopyFrom(template)
    if isinstance(value, str):
        filled.tensor.string_val[:] = [value.encode()]
    elif not template.HasField("tensor"):
        filled.simple_value = value
    elif template.tensor.dtype == types_pb2.DT_DOUBLE:
        filled.tensor.double_val[:] = [value]
    else:
        filled.tensor.float_val[:] = [value]
    return filled


def read_value(event: Event) -> Placed:
    """Return the value that an event of the format `summary` contains.

    Raises:
        InvalidEventError: it is not a value of a summary.
    """
    run = event.value.get("run", "")
    return Placed(run and run_path(run), _parse(summary_pb2.Summary.Value, event.value["data"]))


def read_part(event: Event) -> FilePart:
    """Return the part of a file that an event of the format `file` contains.

    Raises:
        InvalidEventError: its path is not that of such a file.
    """
    return FilePart(file_path(event.value.get("path", "")), event.value.get("offset", 0), event.value["data"])


def other_events(event: Event) -> Iterator[event_pb2.Event]:
    """Yield the event of an event file that an event of another format contains; none if the format is unknown.

    Raises:
        InvalidEventError: its data is damaged.
    """
    data = event.value["data"]
    proto = event_pb2.Event(wall_time=event.walltime, step=event.step)
    match event.value["format"]:
        case "graph_def":
            proto.graph_def = data
        case "run_metadata":
            proto.tagged_run_metadata.tag = event.name
            proto.tagged_run_metadata.run_metadata = data
        case "session_log":
            proto.session_log.CopyFrom(_parse(event_pb2.SessionLog, data))
        case _:
            return
    yield proto


def _parse(kind: Any, data: bytes) -> Any:
    try:
        return kind.FromString(data)
    except DecodeError:
        name = kind.DESCRIPTOR.full_name.removeprefix("tensorboard.")
        raise InvalidEventError(f"its {len(data)} bytes are not a {name} of TensorBoard") from None
