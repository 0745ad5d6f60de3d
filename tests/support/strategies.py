"""Events, headers and batches for property tests."""

from __future__ import annotations

import math
from typing import Any

from hypothesis import strategies as st

from trainwire_protocol.events import CHANNELS, LIFECYCLE_NAMES, Event
from trainwire_protocol.wire import Batch, Header, encode_batch

integers = st.integers(-(2**63), 2**64 - 1)
numbers = integers | st.floats()
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
names = st.lists(texts.filter(bool), min_size=1, max_size=3).map("/".join)
plain_values = st.recursive(
    st.none() | st.booleans() | numbers | texts | st.binary(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=6,
)
maps = st.dictionaries(texts, plain_values.filter(lambda value: not _nested(value, 7)), max_size=3)


def _nested(value: Any, levels: int) -> bool:
    if not isinstance(value, (list, dict)):
        return False
    children = value if isinstance(value, list) else value.values()
    return levels == 0 or any(_nested(child, levels - 1) for child in children)


@st.composite
def histograms(draw: st.DrawFn) -> dict[str, Any]:
    """Values of type `histogram`."""
    edges = sorted(draw(st.lists(st.floats(allow_nan=False), min_size=1, max_size=6)))
    counts = draw(st.lists(st.integers(0, 2**40), min_size=len(edges) - 1, max_size=len(edges) - 1))
    sums = {field: draw(numbers) for field in ("min", "max", "sum", "sum_squares")}
    return {"edges": edges, "counts": counts, **sums}


@st.composite
def tables(draw: st.DrawFn) -> dict[str, Any]:
    """Values of type `table`."""
    columns = draw(st.lists(texts, max_size=4))
    row = st.lists(numbers | texts | st.none(), min_size=len(columns), max_size=len(columns))
    return {"columns": columns, "rows": draw(st.lists(row, max_size=3))}


def _media(formats: list[str]) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries(
        {"data": st.binary(min_size=1, max_size=50), "format": st.sampled_from(formats)},
        optional={"width": st.integers(1, 9), "sample_rate": st.just(8000)},
    )


_logs = st.fixed_dictionaries(
    {"level": st.sampled_from(["INFO", "ERROR"]), "logger": texts, "message": texts},
    optional={"source": texts, "exception": st.none() | texts},
)

_summaries = st.fixed_dictionaries(
    {"format": st.sampled_from(["summary", "file", "graph_def", "template"]), "data": st.binary(max_size=50)},
    optional={"plugin": texts, "run": texts, "path": texts, "type": texts, "offset": st.integers(0, 2**40)},
)

VALUES: dict[str, st.SearchStrategy[Any]] = {
    "scalar": numbers,
    "scalars": st.lists(numbers, max_size=4) | st.dictionaries(texts, numbers, max_size=4),
    "text": texts,
    "histogram": histograms(),
    "image": _media(["png", "jpeg"]),
    "audio": _media(["wav"]),
    "table": tables(),
    "hparams": maps,
    "summary": _summaries,
    "log": _logs,
    "lifecycle": maps,
}


def events(*types: str) -> st.SearchStrategy[Event]:
    """Events of these types, or of all types."""
    return st.sampled_from(types or sorted(VALUES)).flatmap(
        lambda kind: st.builds(
            Event,
            name=st.sampled_from(sorted(LIFECYCLE_NAMES)) if kind == "lifecycle" else names,
            value=VALUES[kind],
            type=st.just(kind),
            walltime=st.floats(0, 4e9),
            step=st.integers(-(2**63), 2**63 - 1),
        )
    )


@st.composite
def headers(draw: st.DrawFn, count: int = 1) -> Header:
    """Headers of batches with `count` events."""
    positions = st.integers(0, 2**62)
    return Header(
        run=draw(st.from_regex(r"[a-z][a-z0-9.-]{0,20}", fullmatch=True)),
        rank=draw(st.integers(0, 1000)),
        attempt=draw(positions),
        channel=draw(st.sampled_from(CHANNELS)),
        seq=draw(positions),
        count=count,
        before=draw(st.dictionaries(st.sampled_from(CHANNELS), st.integers(-1, 2**62))),
        unjournaled=draw(st.booleans()),
        last=draw(st.booleans()),
    )


@st.composite
def batches(draw: st.DrawFn) -> Batch:
    """Batches of one to four events of any type."""
    found = draw(st.lists(events(), min_size=1, max_size=4))
    return encode_batch(draw(headers(len(found))), found)


def normal(value: Any) -> Any:
    """Return the value in a form that can be compared: lists as tuples, and NaNs equal to each other."""
    if isinstance(value, (list, tuple)):
        return tuple(map(normal, value))
    if isinstance(value, dict):
        return {key: normal(item) for key, item in value.items()}
    return "NaN" if isinstance(value, float) and math.isnan(value) else value
