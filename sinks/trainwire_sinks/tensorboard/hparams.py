"""Sessions of the HParams dashboard: a run's hyperparameters, and that it has finished."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from typing import Any, Final

# TensorBoard publishes no types.
from tensorboard.compat.proto import (  # type: ignore[import-untyped]
    summary_pb2,
    tensor_pb2,
    tensor_shape_pb2,
    types_pb2,
)
from tensorboard.plugins.hparams import api_pb2, plugin_data_pb2  # type: ignore[import-untyped]

from trainwire_protocol.events import Event
from trainwire_sinks.tensorboard.index import HPARAMS_END, HPARAMS_START, Index

_NOTHING: Final = tensor_pb2.TensorProto(
    dtype=types_pb2.DT_FLOAT, tensor_shape=tensor_shape_pb2.TensorShapeProto(dim=[{"size": 0}])
)


def add_session_start(summary: summary_pb2.Summary, event: Event, index: Index) -> None:
    """What makes a rank a session, and all ranks of a run one trial. Its metrics are the last values of its scalars.

    No experiment is described: TensorBoard then finds out by itself which hyperparameters and metrics the runs have,
    and would otherwise take the description of any one of them for all.
    """
    info = plugin_data_pb2.SessionStartInfo(start_time_secs=event.walltime, group_name=index.run)
    for name, value in flat(event.value):
        if isinstance(value, bool):
            info.hparams[name].bool_value = value
        elif isinstance(value, (int, float)) and math.isfinite(value):
            info.hparams[name].number_value = value
        else:
            info.hparams[name].string_value = value if isinstance(value, str) else json.dumps(value, default=repr)
    _add(summary, HPARAMS_START, plugin_data_pb2.HParamsPluginData(session_start_info=info))
    index.has_hparams = True


def add_session_end(summary: summary_pb2.Summary, event: Event, index: Index) -> None:
    """That the run has finished. One that failed may be resumed, and TensorBoard keeps the first end that it reads."""
    if event.name == "run/finished" and index.has_hparams:
        info = plugin_data_pb2.SessionEndInfo(status=api_pb2.STATUS_SUCCESS, end_time_secs=event.walltime)
        _add(summary, HPARAMS_END, plugin_data_pb2.HParamsPluginData(session_end_info=info))


def flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The values of nested maps, by their path."""
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from flat(value, f"{prefix}{name}/")
        else:
            yield prefix + name, value


def _add(summary: summary_pb2.Summary, tag: str, data: plugin_data_pb2.HParamsPluginData) -> None:
    content = data.SerializeToString(deterministic=True)
    metadata = summary_pb2.SummaryMetadata(plugin_data={"plugin_name": "hparams", "content": content})
    summary.value.add(tag=tag, metadata=metadata, tensor=_NOTHING)
