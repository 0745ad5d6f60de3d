"""Makes events and batches out of records: values resolved, checked, numbered and packed. For the bus thread."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from operator import itemgetter
from typing import Any, Final

import msgpack

from trainwire.complaints import Complaints, shown
from trainwire.recorder import FLOATS, Logged, Record
from trainwire.step_watch import StepWatch
from trainwire.values import find_pending, resolve
from trainwire_protocol.attempts import MARK
from trainwire_protocol.errors import InvalidEventError
from trainwire_protocol.events import LAST_EVENTS, MAX_VALUE_BYTES, Event, Row, validate
from trainwire_protocol.wire import Batch, Header, encode_batch

MAX_EVENTS: Final = 500
"""Most events that are packed at once: the training thread waits meanwhile for the interpreter's lock."""

MAX_BYTES: Final = 256 << 10
"""A batch that has grown past this is closed."""

MEDIA_BYTES: Final = 64 << 10
"""A larger value goes to the media channel, so that those who read only events need not take it."""

MAX_EVENT_BYTES: Final = MAX_VALUE_BYTES + (1 << 20)
"""Largest event of any type, in bytes: an image or sound, and what is told of it."""

_ENDING: Final = LAST_EVENTS | {MARK}
_FLOATS: Final = frozenset({float})
_SCALARS: Final = {"scalar"}
_ALWAYS_EVENT: Final = frozenset({"lifecycle", "log", "hparams"})


class Batcher:
    """Numbers the events of one attempt."""

    def __init__(self, run: str, rank: int, attempt: int, complaints: Complaints) -> None:
        self.seq = 0
        """Of the next event."""
        self._run, self._rank, self._attempt = run, rank, attempt
        self._complaints = complaints
        self._heads: dict[str, int] = {}
        self._steps = StepWatch()

    def rows(self, record: Record) -> list[Row]:
        """The events of a record whose values are ready; what is not allowed is complained of and left out."""
        name, value, kind, walltime, step, _ = record
        if kind is FLOATS and self._steps.goes_on(tuple(value), step):
            return [(name, number, "scalar", walltime, step) for name, number in value.items()]
        if isinstance(kind, Logged):
            return self._logged(value, walltime, step)
        found = self._checked(name, value, kind, walltime, step)
        return [found] if found else []

    def is_ready(self, record: Record) -> bool:
        """Whether the value of a record can be read without waiting, or will never be."""
        if record[2] is FLOATS:
            return True
        try:
            return all(pending.is_ready() for pending in find_pending(record[1]))
        except Exception as error:
            # The GPU has failed, and training with it: what was to be read from it will be complained of.
            self._complaints.add("not ready", "a value of a GPU cannot be read: %s", error)
            return True

    def batches(self, rows: Sequence[Row]) -> list[Batch]:
        """Pack events, in their order, into as few batches as the rules of the wire allow."""
        return [self._pack(channel, run) for channel, run in _runs(rows)]

    def _logged(self, metrics: Mapping[str, Any], walltime: float, step: int) -> list[Row]:
        with contextlib.suppress(Exception):  # what cannot be resolved is complained of below
            metrics = resolve(metrics)
        names = tuple(metrics)
        if _FLOATS.issuperset(map(type, metrics.values())) and self._steps.goes_on(names, step):
            return [(name, number, "scalar", walltime, step) for name, number in metrics.items()]
        found = [self._checked(name, number, "scalar", walltime, step) for name, number in metrics.items()]
        rows = [row for row in found if row]
        if len(rows) == len(names):
            self._steps.know(names)
        return rows

    def _checked(self, name: str, value: Any, kind: str, walltime: float, step: int) -> Row | None:
        try:
            value = resolve(value)
            if type(value) is int and not -(2**63) <= value < 2**64:
                value = float(value)
            event = validate(Event(name, value, kind, walltime, step))
            _check_size(event)
        except InvalidEventError as error:
            self._complaints.add(shown(name), "not recorded: %s", error)
            return None
        except Exception as error:
            self._complaints.add(shown(name), "not recorded: event %s: %s", shown(name), shown(error))
            return None
        if kind not in _ALWAYS_EVENT and self._steps.goes_back(name, step):
            self._complaints.add(f"step {name}", "the step of %r goes back to %d; it is published as it is", name, step)
        return event

    def _pack(self, channel: str, rows: Sequence[Row]) -> Batch:
        last = _ends(rows[-1], LAST_EVENTS)
        header = Header(
            self._run, self._rank, self._attempt, channel, self.seq, len(rows), dict(self._heads), last=last
        )
        self.seq += len(rows)
        self._heads[channel] = self.seq - 1
        return encode_batch(header, rows)


def _runs(rows: Sequence[Row]) -> Iterator[tuple[str, Sequence[Row]]]:
    """Cut events where the channel changes, a batch is full, or one has to end."""
    if len(rows) <= MAX_EVENTS and set(map(itemgetter(2), rows)) == _SCALARS:
        yield "event", rows
        return
    channel, run, size = "", list[Row](), 0
    for row in rows:
        own_channel, own_size = _channel_and_size(row)
        if run and (own_channel != channel or len(run) >= MAX_EVENTS or size + own_size > MAX_BYTES):
            yield channel, run
            run, size = [], 0
        channel = own_channel
        run.append(row)
        size += own_size
        if _ends(row, _ENDING):
            yield channel, run
            run, size = [], 0
    if run:
        yield channel, run


def _check_size(event: Event) -> None:
    """Raise unless an event can be packed, and is not too large to be sent."""
    if event.type != "scalar" and (size := len(msgpack.packb(event))) > MAX_EVENT_BYTES:
        raise InvalidEventError(f"event {event.name!r} has {size} bytes; at most {MAX_EVENT_BYTES} are allowed")


def _ends(row: Row, names: Collection[str]) -> bool:
    return row[2] == "lifecycle" and row[0] in names


def _channel_and_size(row: Row) -> tuple[str, int]:
    _, value, kind, _, _ = row
    if kind == "scalar":
        return "event", 64
    if kind in ("image", "audio"):
        return "media", len(value["data"])
    size = len(msgpack.packb(row))
    return ("media" if size > MEDIA_BYTES and kind not in _ALWAYS_EVENT else "event"), size
