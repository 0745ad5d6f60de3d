"""Packs records into batches: resolves, validates, packs and numbers their events. For one thread at a time."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any, Final

import msgpack

from trainwire.bus.queue import FLOATS, Logged, Record
from trainwire.bus.scalar_packer import ScalarPacker
from trainwire.bus.values.pending import Noted, find_pending, resolve
from trainwire.bus.values.rejections import Rejections, short_repr
from trainwire_protocol.errors import InvalidEventError, UnsupportedValueError
from trainwire_protocol.events import LAST_EVENTS, MAX_VALUE_BYTES, MEDIA_TYPES, Event, validate
from trainwire_protocol.journal.attempts import MARK
from trainwire_protocol.transport.server import MAX_PUBLISHED_BYTES
from trainwire_protocol.wire import Batch, Header, join_batch

SLICE_EVENTS: Final = 500
"""Number of events that are packed without a pause, during which the training thread waits for the GIL."""

MAX_EVENTS: Final = 2000
"""Number of events at which a batch is closed. Larger batches cost less for each event, here and in readers."""

MAX_BYTES: Final = MAX_PUBLISHED_BYTES - 3
"""Maximum size of a batch's events, in bytes, so that it is published; the list's header has three bytes. A larger
event is a batch of its own."""

MEDIA_BYTES: Final = 64 << 10
"""Events larger than this go to the media channel, so that readers of metrics need not receive them."""

MAX_EVENT_BYTES: Final = MAX_VALUE_BYTES + (1 << 20)
"""Maximum size of an event of any type, in bytes: an image, sound or summary with its description."""

MAX_NAMES: Final = 100_000
"""Maximum number of names whose last step is remembered, and of names in groups."""

_ENDING: Final = LAST_EVENTS | {MARK}
"""Lifecycle events that are the last of their batch."""

_ALWAYS_EVENT: Final = frozenset({"lifecycle", "log", "hparams"})
"""Types that always go to the event channel; their steps may decrease."""

_FLOATS: Final = frozenset({float})


class Group:
    """Names that are logged together."""

    __slots__ = ("names", "packer", "step")

    def __init__(self, names: tuple[str, ...]) -> None:
        self.names = names
        self.packer = ScalarPacker(names)
        self.step: int | None = None
        """The group's last step, if `StepWatch` has not noted it for each name yet."""


class StepWatch:
    """Remembers the last step of each name, to detect steps that decrease."""

    def __init__(self) -> None:
        self._steps: dict[str, int] = {}
        self._highest = -(2**63)
        """The highest step of all names."""
        self._grouped_names = 0
        self._recent: list[Group] = []
        """Groups whose step is not in `_steps` yet."""

    def add_group(self, names: tuple[str, ...]) -> Group | None:
        """Return a group of names that `decreases` was called with, or None if there are too many."""
        if self._grouped_names + len(names) > MAX_NAMES:
            return None
        self._grouped_names += len(names)
        return Group(names)

    def advance(self, group: Group, step: int) -> bool:
        """Set the step of a group's names; return False, and change nothing, if one of them was at a later step."""
        if step >= self._highest:
            if group.step is None:
                self._recent.append(group)
            group.step = self._highest = step
            return True
        self._settle()
        if any(self._steps.get(name, step) > step for name in group.names):
            return False
        self._steps.update(dict.fromkeys(group.names, step))
        return True

    def decreases(self, name: str, step: int) -> bool:
        """Set the step of a name; return whether it was at a later step."""
        self._settle()
        decreases = step < self._steps.get(name, step)
        if name in self._steps or len(self._steps) < MAX_NAMES:
            self._steps[name] = step
        self._highest = max(self._highest, step)
        return decreases

    def _settle(self) -> None:
        """Note the steps of recent groups for each of their names. They only increase, so the last one counts."""
        for group in sorted(self._recent, key=_step_of):
            self._steps.update(dict.fromkeys(group.names, _step_of(group)))
            group.step = None
        self._recent.clear()


def _step_of(group: Group) -> int:
    assert group.step is not None
    return group.step


class Batcher:
    """Numbers the events of one attempt, and collects them in batches."""

    def __init__(self, run: str, rank: int, attempt: int, rejections: Rejections) -> None:
        self.seq = 0
        """Seq of the next event after `take`."""
        self.left = 0
        """Number of events that may still be packed in this slice."""
        self._run, self._rank, self._attempt = run, rank, attempt
        self._rejections = rejections
        self._heads: dict[str, int] = {}
        self._steps = StepWatch()
        self._groups: dict[tuple[str, ...], Group] = {}
        self._closed: list[Batch] = []
        self._channel = ""
        self._packed: list[bytes] = []
        self._count = self._size = self._closed_size = 0
        self._bytes_left = 0

    @property
    def size(self) -> int:
        """Bytes that were packed since `take` was called."""
        return self._closed_size + self._size

    def is_ready(self, record: Record) -> bool:
        """Return whether the value of a record can be read without waiting, or never will be."""
        if record[2] is FLOATS:
            return True
        try:
            return all(pending.is_ready() for pending in find_pending(record[1]))
        except Exception as error:
            # The GPU has failed, and with it the training. The value is rejected when it is read.
            self._rejections.add("not ready", "a value on a GPU cannot be read: %s", error)
            return True

    def begin_slice(self) -> None:
        """Begin a slice: reset the amount that may be packed without a pause."""
        self.left, self._bytes_left = SLICE_EVENTS, MAX_BYTES

    def add(self, record: Record) -> None:
        """Pack the events of a record whose values are ready; invalid ones are rejected."""
        name, value, kind, walltime, step, size = record
        try:
            if kind is FLOATS and (group := self._groups.get(tuple(value))) and self._steps.advance(group, step):
                self._append("event", group.packer.pack(value.values(), walltime, step), len(value))
            elif isinstance(kind, Logged):
                for metrics in _parts(value):
                    self._add_metrics(metrics, walltime, step)
            else:
                # Counted as recorded, however small the packed event is, and whether it is valid or not.
                self._bytes_left -= size
                if self._bytes_left <= 0:
                    self.left = 0
                self._add_event(name, value, kind, walltime, step)
        except Exception as error:  # a name that cannot be hashed again, or a value that only resembles a float
            self._rejections.add("log", "not recorded: %s", short_repr(error))

    def take(self) -> list[Batch]:
        """Return what was added since the last call, in as few batches as the protocol allows."""
        if self._count:
            self._close(is_last=False)
        batches, self._closed, self._closed_size = self._closed, [], 0
        return batches

    def _add_metrics(self, metrics: Mapping[str, Any], walltime: float, step: int) -> None:
        with contextlib.suppress(Exception):  # what cannot be resolved is rejected below, by name
            metrics = resolve(metrics)
        names, are_floats = tuple(metrics), _FLOATS.issuperset(map(type, metrics.values()))
        group = self._groups.get(names)
        if are_floats and group and self._steps.advance(group, step):
            self._append("event", group.packer.pack(metrics.values(), walltime, step), len(names))
            return
        are_valid = [self._add_event(name, number, "scalar", walltime, step) for name, number in metrics.items()]
        if group is None and all(are_valid):
            new = self._steps.add_group(names)
            if new:
                self._groups[names] = new

    def _add_event(self, name: str, value: Any, kind: str, walltime: float, step: int) -> bool:
        """Pack one event; reject it and return False if it is invalid."""
        notes: Mapping[str, str] = {}
        try:
            value = resolve(value)
            if isinstance(value, UnsupportedValueError):
                raise value
            if isinstance(value, Noted):
                value, notes = value.value, value.notes
            if type(value) is int and not -(2**63) <= value < 2**64:
                value = _to_float(value)
            packed = msgpack.packb(validate(Event(name, value, kind, walltime, step)))
            if len(packed) > MAX_EVENT_BYTES:
                raise InvalidEventError(
                    f"event {name!r} has {len(packed)} bytes; at most {MAX_EVENT_BYTES} are allowed"
                )
        except Exception as error:
            self._rejections.add_event(name, kind, error)
            self.left -= 1
            return False
        self._rejections.add_notes(name, kind, notes)
        if kind not in _ALWAYS_EVENT and self._steps.decreases(name, step):
            message = "the step of %r decreases to %d; the event is recorded as given"
            self._rejections.add(f"step {name}", message, name, step)
        is_media = kind in MEDIA_TYPES or (len(packed) > MEDIA_BYTES and kind not in _ALWAYS_EVENT)
        self._append("media" if is_media else "event", packed, 1)
        if kind == "lifecycle" and name in _ENDING:
            self._close(is_last=name in LAST_EVENTS)
        return True

    def _append(self, channel: str, packed: bytes, count: int) -> None:
        if self._count and (channel != self._channel or self._size + len(packed) > MAX_BYTES):
            self._close(is_last=False)
        self._channel = channel
        self._packed.append(packed)
        self._count += count
        self._size += len(packed)
        self.left -= count
        if self._count >= MAX_EVENTS or self._size >= MAX_BYTES:
            self._close(is_last=False)

    def _close(self, is_last: bool) -> None:
        header = Header(
            self._run, self._rank, self._attempt, self._channel, self.seq, self._count, dict(self._heads), last=is_last
        )
        self._closed.append(join_batch(header, self._packed))
        self.seq += self._count
        self._heads[self._channel] = self.seq - 1
        self._closed_size += self._size
        self._packed, self._count, self._size = [], 0, 0


def _to_float(number: int) -> float:
    try:
        return float(number)
    except OverflowError:
        raise UnsupportedValueError(f"the value has {number.bit_length()} bits, too many for a float") from None


def _parts(metrics: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """Yield the metrics of one call in parts of at most `SLICE_EVENTS`; nothing for an empty mapping."""
    if 0 < len(metrics) <= SLICE_EVENTS:
        yield metrics
        return
    items = iter(metrics.items())
    while part := dict(islice(items, SLICE_EVENTS)):
        yield part
