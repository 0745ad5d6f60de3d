"""The codec of headers and batches, with valid and arbitrary bytes."""

from __future__ import annotations

import tracemalloc
from dataclasses import replace
from typing import Any

import msgpack
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from support.strategies import batches, events, headers, normal

from trainwire_protocol.errors import MalformedBatchError, UnsupportedVersionError
from trainwire_protocol.events import Event
from trainwire_protocol.wire import (
    MAX_BATCH_EVENTS,
    MAX_BODY_BYTES,
    MAX_HEADER_BYTES,
    MAX_RUN_BYTES,
    VERSION,
    Batch,
    Cursor,
    Header,
    decode_batch,
    decode_events,
    decode_header,
    encode_batch,
    encode_header,
    is_run_name,
    topic,
    unpack,
    unpack_map,
)

HEADER = Header("digits-1", 0, 2, "event", 10, 3, {"event": 9, "media": 4})
FIELDS: dict[str, Any] = msgpack.unpackb(encode_header(HEADER))
# Nested arrays that claim more elements than there are bytes: the worst case for a decoder that allocates by length.
GREEDY = (b"\xdd\x00\x0f\xff\xff" * 1000).ljust(1 << 20, b"\x01")

msgpack_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.text(max_size=8) | st.binary(),
    lambda inner: st.lists(inner, max_size=6) | st.dictionaries(st.text(max_size=8) | st.binary(max_size=8), inner),
    max_leaves=12,
)


def with_fields(**changes: Any) -> bytes:
    packed: bytes = msgpack.packb(FIELDS | changes)
    return packed


@pytest.mark.parametrize(
    "kind",
    ["scalar", "scalars", "text", "histogram", "image", "audio", "table", "hparams", "summary", "log", "lifecycle"],
)
@given(data=st.data())
def test_events_of_every_type_are_decoded(kind: str, data: st.DataObject) -> None:
    """Decoding returns the encoded events of every type, with lists as tuples."""
    sent = data.draw(st.lists(events(kind), min_size=1, max_size=3))
    batch = encode_batch(replace(HEADER, count=len(sent)), sent)
    received = decode_batch(batch.header_bytes, batch.body)
    assert normal(received.events) == normal(sent)
    assert received.malformed == 0
    assert all(isinstance(event, Event) for event in received.events)


@given(headers())
def test_a_header_is_decoded(header: Header) -> None:
    """Decoding returns the encoded header."""
    assert decode_header(encode_header(header)) == header


def test_the_cursor_and_topic_of_a_batch() -> None:
    """The cursor is that of the last event; the topic consists of channel, run and rank."""
    batch = encode_batch(HEADER, [])
    assert batch.cursor == Cursor(2, 12)
    assert batch.topic == b"tw1/event/digits-1/0/"
    assert "digits-1" in repr(batch)


def test_a_topic_without_run_or_rank_is_a_prefix() -> None:
    """The topic of a channel is a prefix of those of its runs, and that of a run of those of its ranks only."""
    assert topic("event", "a", 1).startswith(topic("event", "a"))
    assert topic("event", "a").startswith(topic("event"))
    assert not topic("event", "a", 11).startswith(topic("event", "a", 1))
    assert not topic("event", "ab", 1).startswith(topic("event", "a"))


def test_a_batch_follows_if_nothing_between_was_missed() -> None:
    """A batch follows a position if nothing was sent between the two on the channels that are read."""
    batch = encode_batch(HEADER, [])
    assert batch.follows(9, {"event", "media"})
    assert batch.follows(4, {"media"})
    assert not batch.follows(8, {"event", "media"})
    assert not batch.follows(3, {"media"})
    assert batch.follows(-1, {"a_later_versions_channel"})


@given(st.binary(max_size=200))
@example(b"")
@example(b"\xc1")
@example(b"\x91" * 5000)
@example(GREEDY)
def test_arbitrary_bytes_raise_only_our_error(data: bytes) -> None:
    """Decoding arbitrary bytes as a header or body raises no other errors than ours."""
    for decode in (decode_header, lambda body: decode_events(body, 1), unpack_map):
        try:
            decode(data)
        except (MalformedBatchError, UnsupportedVersionError) as error:
            assert str(error)
    with pytest.raises(MalformedBatchError):
        decode_batch(data[:1], data)


@given(st.dictionaries(st.sampled_from(sorted(FIELDS)), msgpack_values, max_size=3))
def test_any_values_in_a_header_raise_only_our_error(changes: dict[str, Any]) -> None:
    """A header with arbitrary fields is decoded or raises our error."""
    try:
        decode_header(with_fields(**changes))
    except (MalformedBatchError, UnsupportedVersionError) as error:
        assert str(error)


@given(st.lists(msgpack_values, max_size=5))
def test_any_items_of_a_body_are_decoded_or_counted(items: list[Any]) -> None:
    """Each item of a body is an event or is counted as malformed."""
    found, malformed = decode_events(msgpack.packb(items), len(items))
    assert len(found) + malformed == len(items)


@given(
    st.booleans(),
    st.integers(0, 4),
    msgpack_values | st.sampled_from([[], [1], float("inf"), 2**63, -1.0, "", "n" * 513, {"level": ""}, "text"]),
)
def test_one_unusual_event_among_plain_ones(is_log: bool, field: int, odd: Any) -> None:
    """Checking a batch column by column accepts the same events as checking each event."""
    rows: list[list[Any]] = [["train/loss", 0.5, "scalar", 1.7e9, step] for step in range(3)]
    if is_log:
        rows[1][:3] = ["log", {"level": "INFO", "logger": "a", "message": "b"}, "log"]
    rows[1][field] = odd
    found, malformed = decode_events(msgpack.packb(rows), 3)
    alone = [decode_events(msgpack.packb([row]), 1) for row in rows]
    separate = [decode_events(msgpack.packb([row, ["log", "x", "unknown", 0.0, 0]]), 2)[0][:-1] for row in rows]
    assert normal(found) == normal([event for events, _ in alone for event in events])
    assert normal(found) == normal([event for events in separate for event in events])
    assert malformed == sum(count for _, count in alone)


@given(batches(), st.data())
def test_a_changed_byte_raises_only_our_error(batch: Batch, data: st.DataObject) -> None:
    """A batch with a changed byte is decoded or raises our error."""
    frames = [bytearray(batch.header_bytes), bytearray(batch.body)]
    frame = data.draw(st.sampled_from(frames))
    frame[data.draw(st.integers(0, len(frame) - 1))] = data.draw(st.integers(0, 255))
    try:
        changed = decode_batch(bytes(frames[0]), bytes(frames[1]))
        assert len(changed.events) + changed.malformed == changed.header.count
    except (MalformedBatchError, UnsupportedVersionError) as error:
        assert str(error)


@pytest.mark.parametrize("field", sorted(FIELDS))
def test_a_missing_header_field_is_named(field: str) -> None:
    """The error about a header without a field contains the name of the field."""
    with pytest.raises(MalformedBatchError, match=field):
        decode_header(msgpack.packb({name: value for name, value in FIELDS.items() if name != field}))


@pytest.mark.parametrize(
    "changes",
    [
        {"run": ""},
        {"run": "a/b"},
        {"run": "a\nb"},
        {"run": ".."},
        {"run": b"bytes"},
        {"rank": -1},
        {"attempt": 1.0},
        {"seq": True},
        {"seq": 2**63},
        {"count": -1},
        {"channel": 1},
        {"before": None},
        {"before": {"event": "1"}},
        {"version": "1"},
        {"version": 0},
        {"version": None},
    ],
)
def test_an_invalid_header_field_is_named(changes: dict[str, Any]) -> None:
    """The error about an invalid field of a header contains the name of the field."""
    with pytest.raises(MalformedBatchError, match=next(iter(changes))):
        decode_header(with_fields(**changes))


def test_unknown_header_fields_and_channels() -> None:
    """Unknown fields and flags of a header are ignored, and unknown channels are decoded."""
    header = decode_header(with_fields(compression="none", channel="gradients", before={"gradients": 3}, urgent=True))
    assert header.channel == "gradients"
    assert not header.last


def test_additional_fields_of_an_event() -> None:
    """Fields that a later version added to an event are ignored."""
    body = msgpack.packb([["a", 1.0, "scalar", 2.0, 3, "unit", {"later": True}]])
    assert decode_events(body, 1) == ((Event("a", 1.0, "scalar", 2.0, 3),), 0)


def test_unknown_types_and_lifecycle_names() -> None:
    """Events with unknown types and lifecycle names are decoded."""
    sent = (Event("a", ("b", 1), "point_cloud", 2.0, 3), Event("moon/risen", {"full": True}, "lifecycle", 2.0, 3))
    assert decode_events(msgpack.packb(sent), 2) == (sent, 0)


@pytest.mark.parametrize("kind", ["hparams", "table", "point_cloud"])
def test_extensions_of_messagepack_make_an_event_malformed(kind: str) -> None:
    """An event with a MessagePack extension in its value is left out, and the others are not."""
    good = ["a", 1.0, "scalar", 2.0, 3]
    values = [
        {"columns": ["a"], "rows": [[extension]]} for extension in (msgpack.ExtType(5, b"x"), msgpack.Timestamp(1))
    ]
    body = msgpack.packb([good, *(["b", value, kind, 2.0, 3] for value in values)])
    assert decode_events(body, 3) == ((Event(*good),), 2)


def test_malformed_events_are_left_out_and_counted() -> None:
    """Invalid events are left out and counted; the others are decoded."""
    good = ["a", 1.0, "scalar", 2.0, 3]
    bad: list[Any] = [
        ["a", "1.0", "scalar", 2.0, 3], ["", 1.0, "scalar", 2.0, 3], ["a", 1.0, "scalar", 2.0], {}, None, "event",
        [["a"], 1.0, "scalar", 2.0, 3], ["a", 1.0, "scalar", float("nan"), 3], ["a", 1.0, [], 2.0, 3],
    ]  # fmt: skip
    body = msgpack.packb([good, *bad, good])
    assert decode_events(body, len(bad) + 2) == ((Event(*good),) * 2, len(bad))


def test_a_body_with_a_different_count_is_malformed() -> None:
    """A body must contain as many events as its header says."""
    batch = encode_batch(HEADER, [Event("a", 1.0, "scalar", 2.0, 3)])
    with pytest.raises(MalformedBatchError, match="not a list of 3 events"):
        _ = batch.events


def test_a_newer_major_version_is_rejected() -> None:
    """The error about a newer major version contains the command that upgrades Trainwire."""
    with pytest.raises(UnsupportedVersionError, match="pip install --upgrade trainwire"):
        decode_header(with_fields(version=VERSION + 1, seq="another meaning"))


def test_the_limits_of_headers_bodies_and_counts() -> None:
    """A header, a body and a count are accepted up to their limits."""
    padding = MAX_HEADER_BYTES - len(with_fields(padding=b"")) - 1
    decode_header(with_fields(padding=bytes(padding)))
    with pytest.raises(MalformedBatchError, match=f"at most {MAX_HEADER_BYTES} are allowed"):
        decode_header(with_fields(padding=bytes(padding + 1)))

    decode_batch(encode_header(HEADER), bytes(MAX_BODY_BYTES))
    with pytest.raises(MalformedBatchError, match=f"at most {MAX_BODY_BYTES} are allowed"):
        decode_batch(encode_header(HEADER), bytes(MAX_BODY_BYTES + 1))

    decode_header(with_fields(count=MAX_BATCH_EVENTS))
    with pytest.raises(MalformedBatchError, match=f"at most {MAX_BATCH_EVENTS} are allowed"):
        decode_header(with_fields(count=MAX_BATCH_EVENTS + 1))


def test_a_body_above_the_limit_is_not_encoded() -> None:
    """Encoding a body above the limit is an error, so that no journal contains it."""
    huge = Event("a", {"data": bytes(MAX_BODY_BYTES)}, "hparams", 1.0, 1)
    with pytest.raises(MalformedBatchError, match=f"at most {MAX_BODY_BYTES} are allowed"):
        encode_batch(replace(HEADER, count=1), [huge])


def test_the_limit_of_run_names() -> None:
    """The name of a run may have at most `MAX_RUN_BYTES` bytes of UTF-8."""
    assert is_run_name("ä" * (MAX_RUN_BYTES // 2))
    assert not is_run_name("ä" * (MAX_RUN_BYTES // 2) + "a")


def test_claimed_lengths_take_bounded_memory() -> None:
    """The worst message of the maximum size takes less than 256 MiB."""
    tracemalloc.start()
    try:
        with pytest.raises(MalformedBatchError):
            unpack(GREEDY)
        assert tracemalloc.get_traced_memory()[1] < 256 << 20
    finally:
        tracemalloc.stop()
