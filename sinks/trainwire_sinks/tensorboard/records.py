"""Events as records of TensorBoard's event files."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

# TensorBoard publishes no types.
from tensorboard.compat.proto import event_pb2, summary_pb2, tensor_pb2, types_pb2  # type: ignore[import-untyped]

from trainwire_protocol.errors import InvalidEventError
from trainwire_protocol.events import Event
from trainwire_sinks.tensorboard.hparams import add_session_end, add_session_start, flat
from trainwire_sinks.tensorboard.index import Index
from trainwire_sinks.tensorboard.layout import add_layout
from trainwire_sinks.tensorboard.markdown import markdown_table
from trainwire_sinks.tensorboard.marks import Marks
from trainwire_sinks.tensorboard.media import add_audio, add_image
from trainwire_sinks.tensorboard.tfrecord import record

logger = logging.getLogger("trainwire")

FILE_VERSION: Final = "brain.Event:2"

_TEXT: Final = summary_pb2.SummaryMetadata(plugin_data={"plugin_name": "text"})


def file_head(walltime: float, first_step: int) -> bytes:
    """The records that begin a file; a reader forgets what earlier files have of `first_step` and later ones.

    TensorBoard takes the first such start in a folder for no restart: so every file has one.
    """
    start = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
    version = event_pb2.Event(wall_time=walltime, file_version=FILE_VERSION)
    return _record(version) + _record(event_pb2.Event(wall_time=walltime, step=first_step, session_log=start))


class Summaries:
    """Turns one rank's events into records, and remembers what its files hold.

    Args:
        state: what `state` gave when the files were committed; empty if there are none.
    """

    def __init__(self, state: Mapping[str, Any]) -> None:
        self.marks = Marks(state.get("marks", {}))
        self._index = Index(state.get("index", {}))
        self._refused: set[str] = set()

    def state(self) -> dict[str, Any]:
        """What has to be known to go on, for JSON."""
        return {"index": self._index.state(), "marks": self.marks.state()}

    def records(self, events: Sequence[Event], run: str, place: int) -> bytes:
        """The events of a batch of `run` as records, without those that TensorBoard cannot show.

        Args:
            events: the batch's.
            run: the run's name.
            place: where in the files the first record will stand.
        """
        self._index.run = run
        found = []
        for proto in self._gather(events):
            found.append(_record(proto))
            self.marks.wrote(proto.step, place)
            place += len(found[-1])
        if self._index.has_new_charts:
            # Of what made it new: another event in the batch, which may be of a later version, is no part of it.
            found.append(self.layout(next(event.walltime for event in reversed(events) if event.type == "scalars")))
        return b"".join(found)

    def layout(self, walltime: float) -> bytes:
        """The layout of the charts as a record, if there are any; at step 0, as TensorBoard takes the last of all."""
        if not self._index.charts:
            return b""
        proto = event_pb2.Event(wall_time=walltime, step=0)
        add_layout(proto.summary, self._index.charts)
        self._index.has_new_charts = False
        return _record(proto)

    def _gather(self, events: Iterable[Event]) -> Iterator[event_pb2.Event]:
        """Consecutive events of one step and walltime share a record: it has one of each, and so has `bus.log`."""
        index = self._index
        proto = event_pb2.Event()
        for event in events:
            write = WRITERS.get(event.type)
            if write is None:
                continue
            if event.step != proto.step or event.walltime != proto.wall_time:
                if proto.summary.value:
                    yield proto
                proto = event_pb2.Event(wall_time=event.walltime, step=event.step)
            try:
                write(proto.summary, event, index)
            except InvalidEventError as error:
                self._report(event, error)
        if proto.summary.value:
            yield proto

    def _report(self, event: Event, error: InvalidEventError) -> None:
        """Say what is left out: of each name once, as there may be one at each step."""
        if event.name not in self._refused:
            self._refused.add(event.name)
            logger.warning(
                "tensorboard leaves out the %s %r of step %d, and will others like it: %s",
                event.type, event.name, event.step, error,
            )  # fmt: skip


def _record(proto: event_pb2.Event) -> bytes:
    return record(proto.SerializeToString(deterministic=True))


def _add_scalar(summary: summary_pb2.Summary, event: Event, index: Index) -> None:
    value = summary.value.add()
    value.tag = index.tag(event.name, "scalar")
    value.simple_value = event.value


def _add_scalars(summary: summary_pb2.Summary, event: Event, index: Index) -> None:
    """One tag each, by its label or position, and all in one chart."""
    numbers = event.value.items() if isinstance(event.value, Mapping) else enumerate(event.value)
    tagged = {index.tag(f"{event.name}/{label}", "scalar"): number for label, number in numbers}
    for tag, number in tagged.items():
        summary.value.add(tag=tag, simple_value=number)
    index.chart(event.name, tagged)


def _add_text(summary: summary_pb2.Summary, event: Event, index: Index) -> None:
    _add_markdown(summary, index.tag(event.name, "text"), event.value)


def _add_table(summary: summary_pb2.Summary, event: Event, index: Index) -> None:
    text = markdown_table(event.value["columns"], event.value["rows"])
    _add_markdown(summary, index.tag(event.name, "text"), text)


def _add_hparams(summary: summary_pb2.Summary, event: Event, index: Index) -> None:
    """A session; and a table, as TensorBoard looks at a session's first hyperparameters only."""
    add_session_start(summary, event, index)
    text = markdown_table(["hyperparameter", "value"], flat(event.value))
    _add_markdown(summary, index.tag(event.name, "text"), text)


def _add_markdown(summary: summary_pb2.Summary, tag: str, text: str) -> None:
    tensor = tensor_pb2.TensorProto(dtype=types_pb2.DT_STRING, tensor_shape={}, string_val=[text.encode()])
    summary.value.add(tag=tag, metadata=_TEXT, tensor=tensor)


def _add_histogram(summary: summary_pb2.Summary, event: Event, index: Index) -> None:
    value = event.value
    histogram = summary.value.add(tag=index.tag(event.name, "histogram")).histo
    histogram.min, histogram.max = value["min"], value["max"]
    histogram.sum, histogram.sum_squares = value["sum"], value["sum_squares"]
    histogram.num = sum(value["counts"])
    histogram.bucket_limit.extend(value["edges"][1:])
    histogram.bucket.extend(value["counts"])


WRITERS: Final[dict[str, Callable[[summary_pb2.Summary, Event, Index], None]]] = {
    "scalar": _add_scalar,
    "scalars": _add_scalars,
    "text": _add_text,
    "table": _add_table,
    "histogram": _add_histogram,
    "image": add_image,
    "audio": add_audio,
    "hparams": _add_hparams,
    "lifecycle": add_session_end,
}
"""What adds an event of a type to a record."""
