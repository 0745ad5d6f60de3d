"""Events as TensorBoard's protocol buffers. Imports TensorBoard; only the sink that needs it imports this."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Final

# TensorBoard publishes no types.
from tensorboard.compat.proto import (  # type: ignore[import-untyped]
    event_pb2,
    summary_pb2,
    tensor_pb2,
    tensor_shape_pb2,
    types_pb2,
)
from tensorboard.plugins.hparams import plugin_data_pb2  # type: ignore[import-untyped]

from trainwire_protocol.events import Event
from trainwire_sinks.tfrecord import record

FILE_VERSION: Final = "brain.Event:2"
HPARAMS_TAG: Final = "_hparams_/session_start_info"

_TEXT: Final = summary_pb2.SummaryMetadata(plugin_data={"plugin_name": "text"})
_ONE_STRING: Final = tensor_pb2.TensorProto(
    dtype=types_pb2.DT_STRING, tensor_shape=tensor_shape_pb2.TensorShapeProto(dim=[{"size": 1}])
)
_NOTHING: Final = tensor_pb2.TensorProto(
    dtype=types_pb2.DT_FLOAT, tensor_shape=tensor_shape_pb2.TensorShapeProto(dim=[{"size": 0}])
)


def file_head(walltime: float, first_step: int) -> bytes:
    """The records that begin an event file; a reader forgets what earlier files have of `first_step` and later ones.

    TensorBoard takes the first such start in a folder for no restart: so every file has one.
    """
    start = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
    version = event_pb2.Event(wall_time=walltime, file_version=FILE_VERSION)
    return _record(version) + _record(event_pb2.Event(wall_time=walltime, step=first_step, session_log=start))


def records(events: Iterable[Event]) -> Iterator[bytes]:
    """The events as records, without those of types that TensorBoard does not show.

    Consecutive ones of one step and walltime share a record: a record has one of each, and a call of `bus.log` gives
    all its values the same.
    """
    proto = None
    for event in events:
        write = WRITERS.get(event.type)
        if write is None:
            continue
        if proto is None or event.step != proto.step or event.walltime != proto.wall_time:
            if proto is not None:
                yield _record(proto)
            proto = event_pb2.Event(wall_time=event.walltime, step=event.step)
        write(proto.summary, event)
    if proto is not None:
        yield _record(proto)


def _record(proto: event_pb2.Event) -> bytes:
    return record(proto.SerializeToString(deterministic=True))


def _add_scalar(summary: summary_pb2.Summary, event: Event) -> None:
    value = summary.value.add()
    value.tag = event.name
    value.simple_value = event.value


def _add_scalars(summary: summary_pb2.Summary, event: Event) -> None:
    """One tag each, by its label or position."""
    numbers = event.value.items() if isinstance(event.value, Mapping) else enumerate(event.value)
    for label, number in numbers:
        summary.value.add(tag=f"{event.name}/{label}", simple_value=number)


def _add_text(summary: summary_pb2.Summary, event: Event) -> None:
    value = summary.value.add(tag=event.name, metadata=_TEXT, tensor=_ONE_STRING)
    value.tensor.string_val.append(event.value.encode())


def _add_histogram(summary: summary_pb2.Summary, event: Event) -> None:
    value = event.value
    histogram = summary.value.add(tag=event.name).histo
    histogram.min, histogram.max = value["min"], value["max"]
    histogram.sum, histogram.sum_squares = value["sum"], value["sum_squares"]
    histogram.num = sum(value["counts"])
    histogram.bucket_limit.extend(value["edges"][1:])
    histogram.bucket.extend(value["counts"])


def _add_hparams(summary: summary_pb2.Summary, event: Event) -> None:
    """What makes the run a session of the hparams dashboard; its metrics are the run's scalars."""
    info = plugin_data_pb2.SessionStartInfo(start_time_secs=event.walltime)
    for name, value in _flat(event.value):
        if isinstance(value, bool):
            info.hparams[name].bool_value = value
        elif isinstance(value, (int, float)) and math.isfinite(value):
            info.hparams[name].number_value = value
        else:
            info.hparams[name].string_value = value if isinstance(value, str) else json.dumps(value, default=repr)
    content = plugin_data_pb2.HParamsPluginData(session_start_info=info).SerializeToString(deterministic=True)
    metadata = summary_pb2.SummaryMetadata(plugin_data={"plugin_name": "hparams", "content": content})
    summary.value.add(tag=HPARAMS_TAG, metadata=metadata, tensor=_NOTHING)


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}/")
        else:
            yield prefix + name, value


WRITERS: Final[dict[str, Callable[[summary_pb2.Summary, Event], None]]] = {
    "scalar": _add_scalar,
    "scalars": _add_scalars,
    "text": _add_text,
    "histogram": _add_histogram,
    "hparams": _add_hparams,
}
"""What adds an event of a type to a record."""
