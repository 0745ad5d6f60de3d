"""Adds the values of events to summaries, each in the form that TensorBoard's dashboard for its type reads."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, Final

# TensorBoard publishes no types.
from tensorboard.compat.proto import (  # type: ignore[import-untyped]
    summary_pb2,
    tensor_pb2,
    tensor_shape_pb2,
    types_pb2,
)
from tensorboard.plugins.custom_scalar import layout_pb2  # type: ignore[import-untyped]
from tensorboard.plugins.hparams import api_pb2, plugin_data_pb2  # type: ignore[import-untyped]

from trainwire_protocol.errors import InvalidEventError
from trainwire_protocol.events import Event
from trainwire_sinks.tensorboard.index import HPARAMS_END, HPARAMS_START, LAYOUT, Index
from trainwire_sinks.tensorboard.media import add_audio, add_image
from trainwire_sinks.text.format import cut, plain

MAX_ROWS: Final = 1000
"""Maximum number of rows of a table that are shown: TensorBoard formats all of them for each request."""

MAX_FLOAT32: Final = (2 - 2**-23) * 2.0**127
"""The largest float of 32 bits."""

MAX_HPARAM_CHARACTERS: Final = 1000
"""Maximum length of a hyperparameter, in characters; a longer one is shortened."""

LAYOUT_CATEGORY: Final = "scalars"
"""The category of all charts in the custom-scalars dashboard."""

_MARKDOWN_SPECIAL: Final = re.compile(r"([\\`*_\[\]|])")
_TEXT: Final = summary_pb2.SummaryMetadata(plugin_data={"plugin_name": "text"})
_CUSTOM_SCALARS: Final = summary_pb2.SummaryMetadata(plugin_data={"plugin_name": "custom_scalars"})
_EMPTY_TENSOR: Final = tensor_pb2.TensorProto(
    dtype=types_pb2.DT_FLOAT, tensor_shape=tensor_shape_pb2.TensorShapeProto(dim=[{"size": 0}])
)


def add_scalar(summary: summary_pb2.Summary, event: Event, index: Index) -> None:
    """Add a scalar."""
    value = summary.value.add()
    value.tag = index.tag(event.name, "scalar")
    value.simple_value = event.value


def add_scalars(summary: summary_pb2.Summary, event: Event, index: Index) -> None:
    """Add a tag for each number, named by its label or position, and show all of them in one chart."""
    numbers = event.value.items() if isinstance(event.value, Mapping) else enumerate(event.value)
    tagged = {index.tag(f"{event.name}/{label}", f"of scalars {event.name}"): number for label, number in numbers}
    for tag, number in tagged.items():
        summary.value.add(tag=tag, simple_value=number)
    index.chart(event.name, tagged)


def add_layout(summary: summary_pb2.Summary, charts: Mapping[str, Iterable[str]]) -> None:
    """Add the layout of all charts in the custom-scalars dashboard. TensorBoard uses the last layout that it reads."""
    category = layout_pb2.Category(title=LAYOUT_CATEGORY)
    for name, tags in charts.items():
        # One pattern for all tags, because the dashboard sends a request for each pattern and run.
        pattern = f"^(?:{'|'.join(map(re.escape, tags))})$"
        category.chart.add(title=name, multiline=layout_pb2.MultilineChartContent(tag=[pattern]))
    content = layout_pb2.Layout(category=[category]).SerializeToString(deterministic=True)
    tensor = tensor_pb2.TensorProto(dtype=types_pb2.DT_STRING, tensor_shape={}, string_val=[content])
    summary.value.add(tag=LAYOUT, metadata=_CUSTOM_SCALARS, tensor=tensor)


def add_histogram(summary: summary_pb2.Summary, event: Event, index: Index) -> None:
    """Add a histogram with its buckets.

    Raises:
        InvalidEventError: none of its values is finite, or they exceed the floats that TensorBoard stores.
    """
    value = event.value
    if not any(value["counts"]):
        has_values = value.get("nan") or value.get("infinite")
        raise InvalidEventError("all its values are NaN or infinite" if has_values else "it has no values")
    if not max(abs(value["min"]), abs(value["max"])) <= MAX_FLOAT32:
        raise InvalidEventError(
            f"its range from {value['min']:.6g} to {value['max']:.6g} exceeds the 32-bit floats that TensorBoard stores"
        )
    histogram = summary.value.add(tag=index.tag(event.name, "histogram")).histo
    histogram.min, histogram.max = value["min"], value["max"]
    histogram.sum, histogram.sum_squares = value["sum"], value["sum_squares"]
    histogram.num = sum(value["counts"])
    histogram.bucket_limit.extend(value["edges"][1:])
    histogram.bucket.extend(value["counts"])


def add_text(summary: summary_pb2.Summary, event: Event, index: Index) -> None:
    """Add a text, which the text dashboard shows as Markdown."""
    _add_markdown(summary, index.tag(event.name, "text"), event.value)


def add_table(summary: summary_pb2.Summary, event: Event, index: Index) -> None:
    """Add a table to the text dashboard."""
    text = markdown_table(event.value["columns"], event.value["rows"])
    _add_markdown(summary, index.tag(event.name, "table"), text)


def add_hparams(summary: summary_pb2.Summary, event: Event, index: Index) -> None:
    """Add hyperparameters: as a session of the HParams dashboard, and as a table, which shows later changes too.

    Each rank is a session, and all ranks of a run form one trial. The session's metrics are the last values of its
    scalars. No experiment is described, so that TensorBoard collects the hyperparameters and metrics of all runs; it
    would otherwise use one run's description for all.
    """
    info = plugin_data_pb2.SessionStartInfo(start_time_secs=event.walltime, group_name=index.run)
    for name, value in _flatten(event.value):
        if isinstance(value, bool):
            info.hparams[name].bool_value = value
        elif isinstance(value, (int, float)) and math.isfinite(value):
            info.hparams[name].number_value = value
        else:
            text = value if isinstance(value, str) else json.dumps(value, default=repr)
            info.hparams[name].string_value = cut(text, MAX_HPARAM_CHARACTERS)
    _add_session(summary, HPARAMS_START, plugin_data_pb2.HParamsPluginData(session_start_info=info))
    index.has_hparams = True
    rows = ((name, cut(plain(value), MAX_HPARAM_CHARACTERS)) for name, value in _flatten(event.value))
    text = markdown_table(["hyperparameter", "value"], rows)
    _add_markdown(summary, index.tag(event.name, "table of hparams"), text)


def add_session_end(summary: summary_pb2.Summary, event: Event, index: Index) -> None:
    """Add the end of the session if the run has finished.

    A run that failed may be resumed, so its session stays open: TensorBoard keeps the first end that it reads.
    """
    if event.name == "run/finished" and index.has_hparams:
        info = plugin_data_pb2.SessionEndInfo(status=api_pb2.STATUS_SUCCESS, end_time_secs=event.walltime)
        _add_session(summary, HPARAMS_END, plugin_data_pb2.HParamsPluginData(session_end_info=info))


def markdown_table(columns: Sequence[object], rows: Iterable[Sequence[object]]) -> str:
    """Return a Markdown table that shows the text of its cells literally.

    Rows that are shorter than `columns` are filled with empty cells, and cells beyond the columns are omitted.
    """
    remaining = iter(rows)
    lines = [_table_line(map(_escape, columns)), _table_line(["---"] * len(columns))]
    for row in islice(remaining, MAX_ROWS):
        cells = [*map(_escape, row), *[""] * len(columns)]
        lines.append(_table_line(cells[: len(columns)]))
    if omitted := sum(1 for _ in remaining):
        lines.append(f"\nand {omitted} more rows")
    return "\n".join(lines)


def _table_line(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _escape(value: object) -> str:
    text = plain(value).replace("&", "&amp;").replace("<", "&lt;")
    return _MARKDOWN_SPECIAL.sub(r"\\\1", text)


def _add_markdown(summary: summary_pb2.Summary, tag: str, text: str) -> None:
    tensor = tensor_pb2.TensorProto(dtype=types_pb2.DT_STRING, tensor_shape={}, string_val=[text.encode()])
    summary.value.add(tag=tag, metadata=_TEXT, tensor=tensor)


def _add_session(summary: summary_pb2.Summary, tag: str, data: plugin_data_pb2.HParamsPluginData) -> None:
    content = data.SerializeToString(deterministic=True)
    metadata = summary_pb2.SummaryMetadata(plugin_data={"plugin_name": "hparams", "content": content})
    summary.value.add(tag=tag, metadata=metadata, tensor=_EMPTY_TENSOR)


def _flatten(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the values of nested maps with their paths."""
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _flatten(value, f"{prefix}{name}/")
        else:
            yield prefix + name, value


SUMMARY_WRITERS: Final[dict[str, Callable[[summary_pb2.Summary, Event, Index], None]]] = {
    "scalar": add_scalar,
    "scalars": add_scalars,
    "text": add_text,
    "table": add_table,
    "histogram": add_histogram,
    "image": add_image,
    "audio": add_audio,
    "hparams": add_hparams,
    "lifecycle": add_session_end,
}
"""The function that adds events of each type. It raises InvalidEventError if TensorBoard cannot show the value."""
