"""Makes batches out of records: values resolved, checked, packed and numbered. For one thread at a time."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any, Final

import msgpack

from trainwire.bus.coercion import find_pending, resolve
from trainwire.bus.packing import ScalarPacker
from trainwire.bus.queue import FLOATS, Logged, Record
from trainwire.bus.rejections import Rejections, shown
from trainwire_protocol.errors import InvalidEventError
from trainwire_protocol.events import LAST_EVENTS, MAX_VALUE_BYTES, Event, validate
from trainwire_protocol.journal.attempts import MARK
from trainwire_protocol.transport.server import MAX_PUBLISHED_BYTES
from trainwire_protocol.wire import Batch, Header, join_batch

MAX_NAMES: Final = 100_000
"""Names whose last step is remembered, and names in groups."""


class Group:
    """Names that are logged together."""

    __slots__ = ("names", "packer", "step")

    def __init__(self, names: tuple[str, ...]) -> None:
        self.names = names
        self.packer = ScalarPacker(names)
        self.step: int | None = None
        """The last one of the group, if the watch has not noted it for each name yet."""


class StepWatch:
    """Remembers the last step of each name."""

    def __init__(self) -> None:
        self._steps: dict[str, int] = {}
        self._highest = -(2**63)
        """No name has a later step."""
        self._grouped_names = 0
        self._recent: list[Group] = []
        """Groups with a step that `_steps` does not know of."""

    def group(self, names: tuple[str, ...]) -> Group | None:
        """A group for `goes_on`, if there is room for one; each of its names has gone through `goes_back`."""
        if self._grouped_names + len(names) > MAX_NAMES:
            return None
        self._grouped_names += len(names)
        return Group(names)

    def goes_on(self, group: Group, step: int) -> bool:
        """Whether none of the names was at a later step; if so, they are at this one now."""
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

    def goes_back(self, name: str, step: int) -> bool:
        """Whether a name was at a later step before; in any case it is at this one now."""
        self._settle()
        goes_back = step < self._steps.get(name, step)
        if name in self._steps or len(self._steps) < MAX_NAMES:
            self._steps[name] = step
        self._highest = max(self._highest, step)
        return goes_back

    def _settle(self) -> None:
        """Note the groups' steps for each name: they are later than what is noted, and only grow."""
        for group in sorted(self._recent, key=_step_of):
            self._steps.update(dict.fromkeys(group.names, _step_of(group)))
            group.step = None
        self._recent.clear()


def _step_of(group: Group) -> int:
    assert group.step is not None
    return group.step


SLICE_EVENTS: Final = 500
"""Events that are packed at once: the training thread waits meanwhile for the interpreter's lock."""

MAX_EVENTS: Final = 2000
"""A batch with as many ends: the more there are, the less does each batch's own work weigh, here and in readers."""

MAX_BYTES: Final = MAX_PUBLISHED_BYTES - 3
"""What would take a batch past this begins the next, so that both are published; a list's head has three bytes."""

MEDIA_BYTES: Final = 64 << 10
"""A larger value goes to the media channel, so that those who read only events need not take it."""

MAX_EVENT_BYTES: Final = MAX_VALUE_BYTES + (1 << 20)
"""Largest event of any type, in bytes: an image or sound, and what is told of it."""

_ENDING: Final = LAST_EVENTS | {MARK}
"""Lifecycle events that are the last of their batch."""

_FLOATS: Final = frozenset({float})
_ALWAYS_EVENT: Final = frozenset({"lifecycle", "log", "hparams"})


class Batcher:
    """Numbers the events of one attempt, and fills batches with them."""

    def __init__(self, run: str, rank: int, attempt: int, rejections: Rejections) -> None:
        self.seq = 0
        """Of the next event, once `take` was called."""
        self.left = 0
        """Events that may still be packed at once, lest others wait for the interpreter's lock."""
        self._run, self._rank, self._attempt = run, rank, attempt
        self._complaints = rejections
        self._heads: dict[str, int] = {}
        self._steps = StepWatch()
        self._groups: dict[tuple[str, ...], Group] = {}
        self._closed: list[Batch] = []
        self._channel = ""
        self._packed: list[bytes] = []
        self._count = self._size = self._closed_size = 0
        self._bytes_left = 0

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

    @property
    def size(self) -> int:
        """Bytes that were packed since `take` was called."""
        return self._closed_size + self._size

    def begin_slice(self) -> None:
        """Begin to count anew what is packed at once."""
        self.left, self._bytes_left = SLICE_EVENTS, MAX_BYTES

    def add(self, record: Record) -> None:
        """Pack the events of a record whose values are ready; what is not allowed is complained of and left out."""
        name, value, kind, walltime, step, size = record
        try:
            if kind is FLOATS and (group := self._groups.get(tuple(value))) and self._steps.goes_on(group, step):
                self._append("event", group.packer.pack(value.values(), walltime, step), len(value))
            elif isinstance(kind, Logged):
                for metrics in _parts(value):
                    self._add_metrics(metrics, walltime, step)
            else:
                self._spend_bytes(size)
                self._add_event(name, value, kind, walltime, step)
        except Exception as error:  # a name that cannot be hashed a second time, or what only passes for a float
            self._complaints.add("log", "not recorded: %s", shown(error))

    def take(self) -> list[Batch]:
        """What was added since the last call, in as few batches as the rules of the wire allow."""
        if self._count:
            self._close(is_last=False)
        batches, self._closed, self._closed_size = self._closed, [], 0
        return batches

    def _add_metrics(self, metrics: Mapping[str, Any], walltime: float, step: int) -> None:
        with contextlib.suppress(Exception):  # what cannot be resolved is complained of below
            metrics = resolve(metrics)
        names, are_floats = tuple(metrics), _FLOATS.issuperset(map(type, metrics.values()))
        group = self._groups.get(names)
        if are_floats and group and self._steps.goes_on(group, step):
            self._append("event", group.packer.pack(metrics.values(), walltime, step), len(names))
            return
        are_allowed = [self._add_event(name, number, "scalar", walltime, step) for name, number in metrics.items()]
        if group is None and all(are_allowed):
            new = self._steps.group(names)
            if new:
                self._groups[names] = new

    def _add_event(self, name: str, value: Any, kind: str, walltime: float, step: int) -> bool:
        try:
            value = resolve(value)
            if type(value) is int and not -(2**63) <= value < 2**64:
                value = float(value)
            packed = _pack(validate(Event(name, value, kind, walltime, step)))
        except InvalidEventError as error:
            return self._refuse(name, "not recorded: %s", error)
        except Exception as error:
            return self._refuse(name, "not recorded: event %s: %s", shown(name), shown(error))
        if kind not in _ALWAYS_EVENT and self._steps.goes_back(name, step):
            self._complaints.add(f"step {name}", "the step of %r goes back to %d; it is published as it is", name, step)
        self._append(_channel(kind, len(packed)), packed, 1)
        if kind == "lifecycle" and name in _ENDING:
            self._close(is_last=name in LAST_EVENTS)
        return True

    def _refuse(self, name: str, message: str, *arguments: object) -> bool:
        self._complaints.add(shown(name), message, *arguments)
        self.left -= 1
        return False

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

    def _spend_bytes(self, size: int) -> None:
        """Count the bytes that were recorded, however small they become, and if they are allowed or not."""
        self._bytes_left -= size
        if self._bytes_left <= 0:
            self.left = 0

    def _close(self, is_last: bool) -> None:
        header = Header(
            self._run, self._rank, self._attempt, self._channel, self.seq, self._count, dict(self._heads), last=is_last
        )
        self._closed.append(join_batch(header, self._packed))
        self.seq += self._count
        self._heads[self._channel] = self.seq - 1
        self._closed_size += self._size
        self._packed, self._count, self._size = [], 0, 0


def _parts(metrics: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """What was logged in one call, in parts that are packed at once; there is none of an empty mapping."""
    if 0 < len(metrics) <= SLICE_EVENTS:
        yield metrics
        return
    items = iter(metrics.items())
    while part := dict(islice(items, SLICE_EVENTS)):
        yield part


def _pack(event: Event) -> bytes:
    packed: bytes = msgpack.packb(event)
    if len(packed) > MAX_EVENT_BYTES:
        raise InvalidEventError(f"event {event.name!r} has {len(packed)} bytes; at most {MAX_EVENT_BYTES} are allowed")
    return packed


def _channel(kind: str, size: int) -> str:
    """Where an event of `size` bytes is sent: images and sounds on a channel of their own, and what else is large."""
    is_media = kind in ("image", "audio") or (size > MEDIA_BYTES and kind not in _ALWAYS_EVENT)
    return "media" if is_media else "event"
