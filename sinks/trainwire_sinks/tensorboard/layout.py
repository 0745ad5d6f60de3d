"""The layout of the custom-scalars dashboard: a chart for each event of type `scalars`."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Final

# TensorBoard publishes no types.
from tensorboard.compat.proto import summary_pb2, tensor_pb2, types_pb2  # type: ignore[import-untyped]
from tensorboard.plugins.custom_scalar import layout_pb2  # type: ignore[import-untyped]

from trainwire_sinks.tensorboard.index import LAYOUT

CATEGORY: Final = "scalars"

_METADATA: Final = summary_pb2.SummaryMetadata(plugin_data={"plugin_name": "custom_scalars"})


def add_layout(summary: summary_pb2.Summary, charts: Mapping[str, Iterable[str]]) -> None:
    """Add the layout of all charts: TensorBoard takes the last one that it finds."""
    category = layout_pb2.Category(title=CATEGORY)
    for name, tags in charts.items():
        # One pattern for all: the dashboard makes a request for each pattern and run.
        pattern = f"^(?:{'|'.join(map(re.escape, tags))})$"
        category.chart.add(title=name, multiline=layout_pb2.MultilineChartContent(tag=[pattern]))
    content = layout_pb2.Layout(category=[category]).SerializeToString(deterministic=True)
    tensor = tensor_pb2.TensorProto(dtype=types_pb2.DT_STRING, tensor_shape={}, string_val=[content])
    summary.value.add(tag=LAYOUT, metadata=_METADATA, tensor=tensor)
