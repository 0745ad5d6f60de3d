"""The codec of the wire: encodes batches of events and decodes them. No sockets, no files.

`docs/wire-protocol.md` is the specification, and a test compares this module with its samples.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any, Final, NamedTuple

import msgpack

from trainwire_protocol.errors import InvalidEventError, MalformedBatchError, UnsupportedVersionError
from trainwire_protocol.events import (
    EVENT_TYPES,
    Event,
    Row,
    are_plain_records,
    new_events,
    validate,
    validate_name,
    value_problem,
)

VERSION: Final = 1
"""Major version of the wire. A reader rejects newer ones."""

HEARTBEAT: Final = "heartbeat"

MAX_HEADER_BYTES: Final = 16 << 10
"""Maximum size of the header of a batch or request, in bytes."""

MAX_BODY_BYTES: Final = 64 << 20
"""Maximum size of the body of a batch, in bytes."""

MAX_BATCH_EVENTS: Final = 1 << 16
"""Maximum number of events in a batch."""

MAX_RUN_BYTES: Final = 128
"""Maximum length of the name of a run, in bytes of UTF-8."""


class Cursor(NamedTuple):
    """A position in a run: a reader has received everything up to here on the channels that it reads."""

    attempt: int
    seq: int
    """Seq of the last event up to the position; -1 before the first."""


START: Final = Cursor(0, -1)
"""The position before the first event of a run."""


@dataclass(frozen=True, slots=True)
class Header:
    """The header of a batch."""

    run: str
    rank: int
    attempt: int
    channel: str
    seq: int
    """Seq of the first event."""
    count: int
    """Number of events."""
    before: Mapping[str, int]
    """For each channel, the seq of the last event sent on it before this batch; -1 if there is none."""
    unjournaled: bool = False
    """The batch is not in the journal: live views show it, and a cursor does not move past it."""
    last: bool = False
    """The batch ends its attempt; of a heartbeat: the batch that does was sent."""


_EXTENSION: Final = object()

_FIELDS: Final = ("run", "rank", "attempt", "channel", "seq", "count", "before")
_FLAGS: Final = ("unjournaled", "last")


class Batch:
    """Consecutive events of one channel, with their encoding in messages and in the journal. Immutable."""

    def __init__(self, header: Header, header_bytes: bytes, body: bytes) -> None:
        self.header = header
        self.header_bytes = header_bytes
        self.body = body

    def __repr__(self) -> str:
        return f"Batch({self.header!r}, {len(self.body)} bytes)"

    @property
    def cursor(self) -> Cursor:
        """The position of its last event."""
        return Cursor(self.header.attempt, self.header.seq + self.header.count - 1)

    @property
    def topic(self) -> bytes:
        """The first frame of the message."""
        return topic(self.header.channel, self.header.run, self.header.rank)

    @property
    def events(self) -> tuple[Event, ...]:
        """The events, without invalid ones, which `malformed` counts. They are decoded on first use.

        Raises:
            MalformedBatchError: the body is not a list of as many events as the header says.
        """
        return self._decoded[0]

    @property
    def malformed(self) -> int:
        """Number of invalid events.

        Raises:
            MalformedBatchError: the body is not a list of as many events as the header says.
        """
        return self._decoded[1]

    def follows(self, seq: int, channels: Collection[str]) -> bool:
        """Return whether a reader of `channels` that has everything up to `seq` misses nothing before this batch."""
        return all(self.header.before.get(channel, -1) <= seq for channel in channels)

    @cached_property
    def _decoded(self) -> tuple[tuple[Event, ...], int]:
        return decode_events(self.body, self.header.count)


@lru_cache
def topic(channel: str, run: str = "", rank: int | None = None) -> bytes:
    """Return the topic of a channel of a rank, or the prefix that subscribes to all ranks of a run, or to all runs."""
    text = f"tw{VERSION}/{channel}/"
    if run:
        text += f"{run}/"
    return (text + (f"{rank}/" if rank is not None else "")).encode()


def encode_batch(header: Header, events: Sequence[Row]) -> Batch:
    """Pack valid events into a batch. The header must contain their number.

    Raises:
        MalformedBatchError: the body exceeds `MAX_BODY_BYTES`.
    """
    return _batch(header, msgpack.packb(events))


def join_batch(header: Header, packed: Sequence[bytes]) -> Batch:
    """Join packed events, one or more in each item of `packed`, into a batch. The header must contain their number.

    Raises:
        MalformedBatchError: the body exceeds `MAX_BODY_BYTES`.
    """
    return _batch(header, msgpack.Packer(buf_size=64).pack_array_header(header.count) + b"".join(packed))


def _batch(header: Header, body: bytes) -> Batch:
    _check_size(body)
    return Batch(header, encode_header(header), body)


def _check_size(body: bytes) -> None:
    if len(body) > MAX_BODY_BYTES:
        raise MalformedBatchError(f"the body has {len(body)} bytes; at most {MAX_BODY_BYTES} are allowed")


def encode_header(header: Header) -> bytes:
    """Pack a header, without the flags that are not set."""
    fields: dict[str, Any] = {
        "version": VERSION, "run": header.run, "rank": header.rank, "attempt": header.attempt,
        "channel": header.channel, "seq": header.seq, "count": header.count, "before": header.before,
    }  # fmt: skip
    fields |= {flag: True for flag in _FLAGS if getattr(header, flag)}
    packed: bytes = msgpack.packb(fields)
    return packed


def decode_batch(header_bytes: bytes, body: bytes) -> Batch:
    """Decode the header of a batch. Its events are decoded on first use.

    Raises:
        MalformedBatchError: the header is invalid, or the body exceeds `MAX_BODY_BYTES`.
        UnsupportedVersionError: a newer major version wrote it.
    """
    _check_size(body)
    return Batch(decode_header(header_bytes), header_bytes, body)


def decode_header(data: bytes) -> Header:
    """Decode a header. Unknown fields are ignored.

    Raises:
        MalformedBatchError: the header is invalid.
        UnsupportedVersionError: a newer major version wrote it.
    """
    fields = unpack_map(data)
    refuse_newer(fields.get("version"))
    try:
        known: dict[str, Any] = {name: fields[name] for name in _FIELDS}
    except KeyError as missing:
        raise MalformedBatchError(f"the header has no {missing}") from None
    known |= {flag: fields.get(flag) is True for flag in _FLAGS}
    header = Header(**known)
    problem = _header_problem(header)
    if problem:
        raise MalformedBatchError(f"invalid header: {problem}")
    return header


def decode_events(body: bytes, count: int) -> tuple[tuple[Event, ...], int]:
    """Decode a body of `count` events; return the valid ones and the number of invalid ones.

    Raises:
        MalformedBatchError: the body is not a list of `count` items.
    """
    items = unpack(body)
    if not isinstance(items, tuple) or len(items) != count:
        raise MalformedBatchError(f"the body is not a list of {count} events")
    if _are_plain(items):
        return new_events(items), 0
    events = [event for item in items if (event := _decode_event(item)) is not None]
    return tuple(events), count - len(events)


def unpack_map(data: bytes, limit: int = MAX_HEADER_BYTES) -> dict[str, Any]:
    """Decode a MessagePack map of at most `limit` bytes: a header, request or reply.

    Raises:
        MalformedBatchError: `data` is anything else.
    """
    if len(data) > limit:
        raise MalformedBatchError(f"the map has {len(data)} bytes; at most {limit} are allowed")
    fields = unpack(data)
    if not isinstance(fields, dict):
        raise MalformedBatchError("a header, request or reply must be a map")
    return fields


def unpack(data: bytes) -> Any:
    """Decode a MessagePack value, with lists as tuples.

    Raises:
        MalformedBatchError: `data` is not one MessagePack value.
    """
    try:
        return msgpack.unpackb(
            data, use_list=False, max_array_len=len(data), max_map_len=len(data), ext_hook=_replace_extension
        )
    except (ValueError, TypeError, RecursionError, msgpack.UnpackException) as error:
        raise MalformedBatchError(f"not MessagePack: {error}") from None


def _replace_extension(code: int, data: bytes) -> object:  # noqa: ARG001  # MessagePack's interface
    """Return an object that no check accepts, in place of a value of an extension type, which the wire does not use."""
    return _EXTENSION


def refuse_newer(version: object) -> None:
    """Check that this version can read a major version of the wire.

    Raises:
        MalformedBatchError: `version` is not a version.
        UnsupportedVersionError: it is newer.
    """
    if type(version) is not int or version < 1:
        raise MalformedBatchError(f"invalid header: version is {version!r}")
    if version > VERSION:
        raise UnsupportedVersionError(
            f"this was written by version {version} of Trainwire's wire protocol, which is newer than {VERSION}: "
            "pip install --upgrade trainwire"
        )


def is_run_name(name: object) -> bool:
    """Return whether `name` is a valid name of a run: a part of topics and paths."""
    if not isinstance(name, str) or not 0 < len(name.encode(errors="replace")) <= MAX_RUN_BYTES:
        return False
    return name.isprintable() and "/" not in name and name not in (".", "..")


def _are_plain(items: tuple[Any, ...]) -> bool:
    """Return whether all events are valid, of known types and without additional fields, as in most batches.

    Checking them column by column takes half the time of checking each.
    """
    try:
        # An item that is not a tuple of five fields fails here, or its fields do in the checks of the columns.
        names, values, kinds, walltimes, steps = zip(*items, strict=True)
        return (
            {float}.issuperset(map(type, walltimes))
            and {int}.issuperset(map(type, steps))
            and math.isfinite(sum(walltimes))
            and max(steps) < 2**63
            and all(map(_is_name, set(names)))
            and _are_values(kinds, values)
        )
    except (TypeError, ValueError):  # a name or type may be a map, which is not hashable
        return False


def _are_values(kinds: tuple[Any, ...], values: tuple[Any, ...]) -> bool:
    """Return whether all types are known and all values are valid."""
    present = set(kinds)
    if present == {"scalar"} and {float}.issuperset(map(type, values)):
        return True
    if present == {"log"} and are_plain_records(values):
        return True
    return present <= EVENT_TYPES and not any(map(value_problem, kinds, values))


def _decode_event(item: Any) -> Event | None:
    try:
        name, value, kind, walltime, step = item[:5]
        return validate(Event(name, value, kind, walltime, step))
    except (InvalidEventError, TypeError, ValueError, KeyError):
        return None


@lru_cache(maxsize=4096)
def _is_name(name: object) -> bool:
    try:
        validate_name(name)
    except InvalidEventError:
        return False
    return True


def _header_problem(header: Header) -> str | None:
    numbers = {"rank": header.rank, "attempt": header.attempt, "seq": header.seq, "count": header.count}
    for field, number in numbers.items():
        if type(number) is not int or not 0 <= number < 2**63:
            return f"{field} is {number!r}"
    if not is_run_name(header.run):
        return f"run is {header.run!r}"
    if header.count > MAX_BATCH_EVENTS:
        return f"count is {header.count}; at most {MAX_BATCH_EVENTS} are allowed"
    if not is_run_name(header.channel):
        return f"channel is {header.channel!r}"
    if not isinstance(header.before, dict) or not all(type(seq) is int for seq in header.before.values()):
        return f"before is {header.before!r}"
    return None
