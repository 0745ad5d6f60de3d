"""Makes events and batches out of records: values resolved, checked, numbered and packed. For the bus thread."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final

import msgpack

from trainwire.complaints import Complaints, shown
from trainwire.recorder import Record
from trainwire.values import find_pending, resolve
from trainwire_protocol.attempts import MARK
from trainwire_protocol.errors import InvalidEventError
from trainwire_protocol.events import LAST_EVENTS, MAX_VALUE_BYTES, Event, validate
from trainwire_protocol.wire import Batch, Header, encode_batch

MAX_EVENTS: Final = 500
"""Most events that are packed at once: the training thread waits meanwhile for the interpreter's lock."""

MAX_BYTES: Final = 256 << 10
"""A batch that has grown past this is closed."""

MEDIA_BYTES: Final = 64 << 10
"""A larger value goes to the media channel, so that those who read only events need not take it."""

MAX_EVENT_BYTES: Final = MAX_VALUE_BYTES + (1 << 20)
"""Largest event of any type, in bytes: an image or sound, and what is told of it."""

MAX_NAMES: Final = 100_000
"""Names whose last step is remembered."""

_ALWAYS_EVENT: Final = frozenset({"lifecycle", "log", "hparams"})


class Batcher:
    """Numbers the events of one attempt."""

    def __init__(self, run: str, rank: int, attempt: int, complaints: Complaints) -> None:
        self.seq = 0
        """Of the next event."""
        self._run, self._rank, self._attempt = run, rank, attempt
        self._complaints = complaints
        self._heads: dict[str, int] = {}
        self._steps: dict[str, int] = {}

    def events(self, record: Record) -> list[Event]:
        """The events of a record whose values are ready; what is not allowed is complained of and left out."""
        if record.type:
            found = self._checked(record.name, record.value, record.type, record)
            return [found] if found else []
        metrics = record.value.items()
        return [event for name, value in metrics if (event := self._checked(name, value, "scalar", record))]

    def is_ready(self, record: Sequence[Any]) -> bool:
        """Whether the value of a record, as it is queued, can be read without waiting, or will never be."""
        try:
            return all(pending.is_ready() for pending in find_pending(record[1]))
        except Exception as error:
            # The GPU has failed, and training with it: what was to be read from it will be complained of.
            self._complaints.add("not ready", "a value of a GPU cannot be read: %s", error)
            return True

    def batches(self, events: Sequence[Event]) -> list[Batch]:
        """Pack events, in their order, into as few batches as the rules of the wire allow."""
        return [self._pack(channel, run) for channel, run in _runs(events)]

    def _checked(self, name: str, value: Any, kind: str, record: Record) -> Event | None:
        try:
            # Most events are of a name that was seen before, and hold a float.
            if type(value) is not float or kind != "scalar" or name not in self._steps:
                value = resolve(value)
                if type(value) is int and not -(2**63) <= value < 2**64:
                    value = float(value)
                _check_size(validate(Event(name, value, kind, record.walltime, record.step)))
        except InvalidEventError as error:
            self._complaints.add(shown(name), "not recorded: %s", error)
            return None
        except Exception as error:
            self._complaints.add(shown(name), "not recorded: event %s: %s", shown(name), shown(error))
            return None
        self._watch_step(name, record.step)
        return Event(name, value, kind, record.walltime, record.step)

    def _watch_step(self, name: str, step: int) -> None:
        if step < self._steps.get(name, step):
            self._complaints.add(f"step {name}", "the step of %r goes back to %d; it is published as it is", name, step)
        if name in self._steps or len(self._steps) < MAX_NAMES:
            self._steps[name] = step

    def _pack(self, channel: str, events: Sequence[Event]) -> Batch:
        last = events[-1].type == "lifecycle" and events[-1].name in LAST_EVENTS
        header = Header(
            self._run, self._rank, self._attempt, channel, self.seq, len(events), dict(self._heads), last=last
        )
        self.seq += len(events)
        self._heads[channel] = self.seq - 1
        return encode_batch(header, events)


def _runs(events: Sequence[Event]) -> Iterator[tuple[str, list[Event]]]:
    """Cut events where the channel changes, a batch is full, or one has to end."""
    channel, run, size = "", list[Event](), 0
    for event in events:
        own_channel, own_size = _channel_and_size(event)
        if run and (own_channel != channel or len(run) >= MAX_EVENTS or size + own_size > MAX_BYTES):
            yield channel, run
            run, size = [], 0
        channel = own_channel
        run.append(event)
        size += own_size
        if event.type == "lifecycle" and (event.name == MARK or event.name in LAST_EVENTS):
            yield channel, run
            run, size = [], 0
    if run:
        yield channel, run


def _check_size(event: Event) -> None:
    """Raise unless an event can be packed, and is not too large to be sent."""
    if event.type != "scalar" and (size := len(msgpack.packb(event))) > MAX_EVENT_BYTES:
        raise InvalidEventError(f"event {event.name!r} has {size} bytes; at most {MAX_EVENT_BYTES} are allowed")


def _channel_and_size(event: Event) -> tuple[str, int]:
    if event.type == "scalar":
        return "event", 64
    if event.type in ("image", "audio"):
        return "media", len(event.value["data"])
    size = len(msgpack.packb(event))
    return ("media" if size > MEDIA_BYTES and event.type not in _ALWAYS_EVENT else "event"), size
