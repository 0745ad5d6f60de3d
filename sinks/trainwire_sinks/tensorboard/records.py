"""Encodes events as records of TensorBoard's event files.

A record is framed as follows, little-endian: length u64 | masked CRC-32C of the length u32 | data | masked CRC-32C of
the data u32. The data is an `Event` message of TensorBoard, which holds a summary. The checksums are computed by
google-crc32c, because TensorBoard's own writer computes them in Python.
"""

from __future__ import annotations

import logging
import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any, Final, NamedTuple

import google_crc32c

# TensorBoard publishes no types.
from tensorboard.compat.proto import event_pb2  # type: ignore[import-untyped]

from trainwire_protocol.errors import InvalidEventError
from trainwire_protocol.events import Event
from trainwire_sinks.tensorboard.event_files import FilePart
from trainwire_sinks.tensorboard.index import Index
from trainwire_sinks.tensorboard.marks import Marks
from trainwire_sinks.tensorboard.opaque import Placed, Templates, other_events, read_part, read_value
from trainwire_sinks.tensorboard.summaries import SUMMARY_WRITERS, add_layout

logger = logging.getLogger("trainwire")

FILE_VERSION: Final = "brain.Event:2"

KEPT_STARTS: Final = 4
"""Number of earlier starts whose tags and charts are remembered, as a run may be resumed from one of them."""


def frame(data: bytes) -> bytes:
    """Return `data` as a record."""
    return b"".join((_frame_header(len(data)), data, _masked_checksum(data)))


@lru_cache(maxsize=4096)
def _frame_header(length: int) -> bytes:
    encoded = struct.pack("<Q", length)
    return encoded + _masked_checksum(encoded)


def _masked_checksum(data: bytes) -> bytes:
    # TensorFlow masks checksums, because the CRC of data that contains CRCs is weak.
    checksum = google_crc32c.value(data)
    return struct.pack("<I", ((checksum >> 15 | checksum << 17) + 0xA282EAD8) & 0xFFFFFFFF)


def file_header(walltime: float, first_step: int) -> bytes:
    """Return the first records of a file, which make a reader discard points of earlier files from `first_step` on.

    Every file has them, because TensorBoard does not treat the first one in a folder as a restart.
    """
    start = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
    version = event_pb2.Event(wall_time=walltime, file_version=FILE_VERSION)
    return _encode(version) + _encode(event_pb2.Event(wall_time=walltime, step=first_step, session_log=start))


class Records(NamedTuple):
    """What is written for the events of a batch."""

    own: bytes
    """The records for the rank's own files."""
    runs: Mapping[str, bytes]
    """The records for the runs below the rank, by their paths."""
    files: Sequence[FilePart]


class RecordEncoder:
    """Encodes the events of one rank, and keeps track of what its files contain.

    Args:
        state: what `state` returned at the last commit; empty if there is none.
    """

    def __init__(self, state: Mapping[str, Any]) -> None:
        self.marks = Marks(state.get("marks", {}))
        self._templates = Templates(state)
        self._runs: dict[str, list[bytes]] = {}
        self._files: list[FilePart] = []
        self._index = Index(state.get("index", {}))
        self._start: int = state.get("start", 0)
        self._others: dict[str, Any] = state.get("others", {})
        """The states of the indexes of other starts of the run."""
        self._reported: set[str] = set()

    def state(self) -> dict[str, Any]:
        """Return what is needed to resume, as a map for JSON."""
        return {
            "index": self._index.state(), "marks": self.marks.state(), "start": self._start, "others": self._others,
            "templates": self._templates.state(),
        }  # fmt: skip

    def begin_start(self, start: int) -> None:
        """Continue with the files of another start of the run, which have tags and charts of their own."""
        if start != self._start:
            others = self._others | {str(self._start): self._index.state()}
            self._index = Index(others.pop(str(start), {}))
            self._start, self._others = start, dict(list(others.items())[-KEPT_STARTS:])

    def encode(self, events: Sequence[Event], run: str, position: int) -> Records:
        """Return the events of a batch as records, without those that TensorBoard cannot show.

        Args:
            events: the events of the batch.
            run: the run's name.
            position: where in the files the first record will be.
        """
        # Each start of a run is a trial of its own in the HParams dashboard.
        self._index.run = f"{run}.attempt-{self._start}" if self._start else run
        records = list[bytes]()
        self._runs, self._files = {}, []
        for proto in self._merge(events):
            records.append(_encode(proto))
            self.marks.add_record(proto.step, position)
            position += len(records[-1])
        if self._index.has_new_charts:
            # The walltime of the event that added the chart: a batch's last event may be of an unknown type, and must
            # not change the output.
            records.append(self.layout(next(event.walltime for event in reversed(events) if event.type == "scalars")))
        return Records(b"".join(records), {run: b"".join(own) for run, own in self._runs.items()}, self._files)

    def layout(self, walltime: float) -> bytes:
        """Return the layout of the charts as a record, at step 0; empty if there are no charts."""
        if not self._index.charts:
            return b""
        proto = event_pb2.Event(wall_time=walltime, step=0)
        add_layout(proto.summary, self._index.charts)
        self._index.has_new_charts = False
        return _encode(proto)

    def _merge(self, events: Iterable[Event]) -> Iterator[event_pb2.Event]:
        """Yield a message for each group of consecutive events with the same step and walltime, as `bus.log` gives."""
        proto = event_pb2.Event()
        for event in events:
            try:
                others = self._write_opaque(event)
            except InvalidEventError as error:
                self._report_omission(event, error)
                continue
            if others is not None:
                if others and proto.summary.value:
                    yield proto
                    proto = event_pb2.Event()
                yield from others
                continue
            write = SUMMARY_WRITERS.get(event.type)
            if write is None:
                continue
            if event.step != proto.step or event.walltime != proto.wall_time:
                if proto.summary.value:
                    yield proto
                proto = event_pb2.Event(wall_time=event.walltime, step=event.step)
            try:
                write(proto.summary, event, self._index)
            except InvalidEventError as error:
                self._report_omission(event, error)
        if proto.summary.value:
            yield proto

    def _write_opaque(self, event: Event) -> list[event_pb2.Event] | None:
        """Return the messages for an event of type `summary`, or of another type with a template; None for any other.

        What belongs to a run below the rank, or to a file, is noted.

        Raises:
            InvalidEventError: TensorBoard cannot show the event.
        """
        if event.type == "lifecycle" and event.name in ("run/started", "run/resumed"):
            self._templates.clear()
        if event.type != "summary":
            placed = self._templates.apply(event)
            if placed is None:
                return None
            for run, value in placed:
                if not run:
                    value.tag = self._index.tag(value.tag, event.type)
            return self._place(placed, event)
        match event.value["format"]:
            case "summary":
                return self._place([read_value(event)], event)
            case "template":
                self._templates.add(event)
            case "file":
                self._files.append(read_part(event))
            case _:
                return list(other_events(event))
        return []

    def _place(self, values: Iterable[Placed], event: Event) -> list[event_pb2.Event]:
        """Return a message with the values of the rank itself, if there are any, and note those of runs below it."""
        own = event_pb2.Event(wall_time=event.walltime, step=event.step)
        for run, value in values:
            if not run:
                own.summary.value.append(value)
                continue
            other = event_pb2.Event(wall_time=event.walltime, step=event.step)
            other.summary.value.append(value)
            self._runs.setdefault(run, []).append(_encode(other))
        return [own] if own.summary.value else []

    def _report_omission(self, event: Event, error: InvalidEventError) -> None:
        """Log an event that is omitted; only the first of each name, because there may be one at each step."""
        if event.name not in self._reported:
            self._reported.add(event.name)
            logger.warning(
                "tensorboard omits the %s %r of step %d, and similar ones of this name: %s",
                event.type, event.name, event.step, error,
            )  # fmt: skip


def _encode(proto: event_pb2.Event) -> bytes:
    return frame(proto.SerializeToString(deterministic=True))
