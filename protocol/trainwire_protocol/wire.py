"""The codec of the wire: batches of events to bytes and back. No sockets, no files.

`docs/wire-protocol.md` is the authority; a test holds this module against its golden samples.
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
"""Major version of the wire: a reader refuses a newer one."""

HEARTBEAT: Final = "heartbeat"

MAX_HEADER_BYTES: Final = 16 << 10
"""Largest header of a batch or request, in bytes."""

MAX_BODY_BYTES: Final = 64 << 20
"""Largest body of a batch, in bytes."""

MAX_BATCH_EVENTS: Final = 1 << 16
"""Most events in one batch that a reader accepts."""

MAX_RUN_BYTES: Final = 128
"""Longest name of a run, in bytes."""


class Cursor(NamedTuple):
    """A position in a run: all that was wanted up to here was delivered."""

    attempt: int
    seq: int
    """Of the last event that was delivered; -1 if none was."""


START: Final = Cursor(0, -1)


@dataclass(frozen=True, slots=True)
class Header:
    """What a batch says of itself."""

    run: str
    rank: int
    attempt: int
    channel: str
    seq: int
    """Of its first event."""
    count: int
    before: Mapping[str, int]
    """For each channel the seq of the last event sent on it before this batch; -1 if none was."""
    unjournaled: bool = False
    """It is on no disk: live views show it, and a cursor does not move past it."""
    last: bool = False
    """It ends its attempt."""


_FIELDS: Final = ("run", "rank", "attempt", "channel", "seq", "count", "before")
_FLAGS: Final = ("unjournaled", "last")


class Batch:
    """Some consecutive events of one channel, as they stand on the wire and in the journal. Immutable."""

    def __init__(self, header: Header, header_bytes: bytes, body: bytes) -> None:
        self.header = header
        self.header_bytes = header_bytes
        self.body = body

    def __repr__(self) -> str:
        return f"Batch({self.header!r}, {len(self.body)} bytes)"

    @property
    def cursor(self) -> Cursor:
        """The position after its last event."""
        return Cursor(self.header.attempt, self.header.seq + self.header.count - 1)

    @property
    def topic(self) -> bytes:
        """The first frame of its message."""
        return topic(self.header.channel, self.header.run, self.header.rank)

    @property
    def events(self) -> tuple[Event, ...]:
        """Its events; those whose fields are not allowed are left out and counted in `malformed`.

        Raises:
            MalformedBatchError: the body is no list of as many events as the header says.
        """
        return self._decoded[0]

    @property
    def malformed(self) -> int:
        """How many of its events were left out."""
        return self._decoded[1]

    def follows(self, seq: int, channels: Collection[str]) -> bool:
        """Whether a reader of `channels` that has all up to `seq` misses nothing before this batch."""
        return all(self.header.before.get(channel, -1) <= seq for channel in channels)

    @cached_property
    def _decoded(self) -> tuple[tuple[Event, ...], int]:
        return decode_events(self.body, self.header.count)


@lru_cache
def topic(channel: str, run: str = "", rank: int | None = None) -> bytes:
    """The topic of a channel, or the prefix of it that subscribes to all runs or to all ranks of one."""
    text = f"tw{VERSION}/{channel}/"
    if run:
        text += f"{run}/"
    return (text + (f"{rank}/" if rank is not None else "")).encode()


def encode_batch(header: Header, events: Sequence[Row]) -> Batch:
    """Pack events that `validate` has passed into a batch; the header's count has to be theirs.

    Raises:
        MalformedBatchError: it would be larger than a reader accepts.
    """
    return _batch(header, msgpack.packb(events))


def join_batch(header: Header, packed: Sequence[bytes]) -> Batch:
    """Make a batch of events that are packed already, one or several in each of `packed`; the header counts them.

    Raises:
        MalformedBatchError: it would be larger than a reader accepts.
    """
    return _batch(header, msgpack.Packer(buf_size=64).pack_array_header(header.count) + b"".join(packed))


def _batch(header: Header, body: bytes) -> Batch:
    if len(body) > MAX_BODY_BYTES:
        raise MalformedBatchError(f"a body of {len(body)} bytes; at most {MAX_BODY_BYTES} are allowed")
    return Batch(header, encode_header(header), body)


def encode_header(header: Header) -> bytes:
    """Pack a header, leaving out the flags that are not set."""
    fields: dict[str, Any] = {
        "version": VERSION, "run": header.run, "rank": header.rank, "attempt": header.attempt,
        "channel": header.channel, "seq": header.seq, "count": header.count, "before": header.before,
    }  # fmt: skip
    fields |= {flag: True for flag in _FLAGS if getattr(header, flag)}
    packed: bytes = msgpack.packb(fields)
    return packed


def decode_batch(header_bytes: bytes, body: bytes) -> Batch:
    """Read a batch's two frames; the events are decoded when they are asked for.

    Raises:
        MalformedBatchError: the header is not one.
        UnsupportedVersionError: a newer major version wrote it.
    """
    if len(body) > MAX_BODY_BYTES:
        raise MalformedBatchError(f"a body of {len(body)} bytes; at most {MAX_BODY_BYTES} are allowed")
    return Batch(decode_header(header_bytes), header_bytes, body)


def decode_header(data: bytes) -> Header:
    """Read a header, skipping fields of later versions."""
    fields = unpack_map(data)
    refuse_newer(fields.get("version"))
    try:
        known: dict[str, Any] = {name: fields[name] for name in _FIELDS}
    except KeyError as missing:
        raise MalformedBatchError(f"a header without {missing}") from None
    known |= {flag: fields.get(flag) is True for flag in _FLAGS}
    header = Header(**known)
    problem = _header_problem(header)
    if problem:
        raise MalformedBatchError(f"a header in which {problem}")
    return header


def decode_events(body: bytes, count: int) -> tuple[tuple[Event, ...], int]:
    """Read a body of `count` events: those that are allowed, and how many are not."""
    items = unpack(body)
    if not isinstance(items, tuple) or len(items) != count:
        raise MalformedBatchError(f"a body that is no list of {count} events")
    if _are_plain(items):
        return new_events(items), 0
    events = [event for item in items if (event := _event(item)) is not None]
    return tuple(events), count - len(events)


def unpack_map(data: bytes, limit: int = MAX_HEADER_BYTES) -> dict[str, Any]:
    """Read one MessagePack map of at most `limit` bytes, as headers, requests and replies are."""
    if len(data) > limit:
        raise MalformedBatchError(f"a map of {len(data)} bytes; at most {limit} are allowed")
    fields = unpack(data)
    if not isinstance(fields, dict):
        raise MalformedBatchError("a header or request that is no map")
    return fields


def unpack(data: bytes) -> Any:
    """Read one MessagePack value, lists as tuples."""
    try:
        return msgpack.unpackb(data, use_list=False, max_array_len=len(data), max_map_len=len(data))
    except (ValueError, TypeError, RecursionError, msgpack.UnpackException) as error:
        raise MalformedBatchError(f"not MessagePack: {error}") from None


def refuse_newer(version: object) -> None:
    """Raise unless a reader of this version can read `version`."""
    if type(version) is not int or version < 1:
        raise MalformedBatchError(f"a header whose version is {version!r}")
    if version > VERSION:
        raise UnsupportedVersionError(
            f"this was written in version {version} of Trainwire's wire; this reader knows {VERSION}: "
            "pip install --upgrade trainwire"
        )


def _are_plain(items: tuple[Any, ...]) -> bool:
    """Whether all are allowed, and of known types and five fields, as in most batches: columns take half the time."""
    try:
        # An item that is no tuple of five fields fails here, or has something else in the place of a type or number.
        names, values, kinds, walltimes, steps = zip(*items, strict=True)
        return (
            {float}.issuperset(map(type, walltimes))
            and {int}.issuperset(map(type, steps))
            and math.isfinite(sum(walltimes))
            and max(steps) < 2**63
            and all(map(_is_name, set(names)))
            and _are_values(kinds, values)
        )
    except (TypeError, ValueError):  # also where a name or type is a map
        return False


def _are_values(kinds: tuple[Any, ...], values: tuple[Any, ...]) -> bool:
    """Whether the types are known, and the values theirs."""
    present = set(kinds)
    if present == {"scalar"} and {float}.issuperset(map(type, values)):
        return True
    if present == {"log"} and are_plain_records(values):
        return True
    return present <= EVENT_TYPES and not any(map(value_problem, kinds, values))


def _event(item: Any) -> Event | None:
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


def is_run_name(name: object) -> bool:
    """Whether a run can have this name: it is a part of topics and paths."""
    if not isinstance(name, str) or not 0 < len(name.encode(errors="replace")) <= MAX_RUN_BYTES:
        return False
    return name.isprintable() and "/" not in name and name not in (".", "..")
