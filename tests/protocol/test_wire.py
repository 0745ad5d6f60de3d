"""The codec of headers and batches, forward, backward and against anything at all."""

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
# Arrays that claim more elements than there are bytes, each inside the other: the worst for whoever allocates first.
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
    "kind", ["scalar", "scalars", "text", "histogram", "image", "audio", "table", "hparams", "log", "lifecycle"]
)
@given(data=st.data())
def test_every_type_comes_back_as_it_was(kind: str, data: st.DataObject) -> None:
    """Events of every type are the same after encoding and decoding, lists as tuples."""
    sent = data.draw(st.lists(events(kind), min_size=1, max_size=3))
    batch = encode_batch(replace(HEADER, count=len(sent)), sent)
    received = decode_batch(batch.header_bytes, batch.body)
    assert normal(received.events) == normal(sent)
    assert received.malformed == 0
    assert all(isinstance(event, Event) for event in received.events)


@given(headers())
def test_a_header_comes_back_as_it_was(header: Header) -> None:
    """A header is the same after encoding and decoding."""
    assert decode_header(encode_header(header)) == header


def test_a_batchs_cursor_and_topic() -> None:
    """A batch ends at its last event, and goes to the topic of its channel, run and rank."""
    batch = encode_batch(HEADER, [])
    assert batch.cursor == Cursor(2, 12)
    assert batch.topic == b"tw1/event/digits-1/0/"
    assert "digits-1" in repr(batch)


def test_a_topic_without_run_or_rank_is_a_prefix() -> None:
    """The topic of a channel begins those of its runs, and that of a run those of its ranks, and of no others."""
    assert topic("event", "a", 1).startswith(topic("event", "a"))
    assert topic("event", "a").startswith(topic("event"))
    assert not topic("event", "a", 11).startswith(topic("event", "a", 1))
    assert not topic("event", "ab", 1).startswith(topic("event", "a"))


def test_a_batch_follows_if_no_wanted_channel_lies_past_the_cursor() -> None:
    """A batch follows a position if nothing wanted was sent between the two; what is not wanted does not count."""
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
def test_any_bytes_as_a_header_or_body_raise_only_our_error(data: bytes) -> None:
    """Bytes that are no header or body raise the error of malformed batches, whatever they are."""
    for decode in (decode_header, lambda body: decode_events(body, 1), unpack_map):
        try:
            decode(data)
        except (MalformedBatchError, UnsupportedVersionError) as error:
            assert str(error)
    with pytest.raises(MalformedBatchError):
        decode_batch(data[:1], data)


@given(st.dictionaries(st.sampled_from(sorted(FIELDS)), msgpack_values, max_size=3))
def test_any_values_in_a_header_raise_only_our_error(changes: dict[str, Any]) -> None:
    """A header with any field replaced by anything is read or refused with our error."""
    try:
        decode_header(with_fields(**changes))
    except (MalformedBatchError, UnsupportedVersionError) as error:
        assert str(error)


@given(st.lists(msgpack_values, max_size=5))
def test_any_items_of_a_body_are_events_or_counted(items: list[Any]) -> None:
    """Whatever a body's items are, each is an event or counted as malformed."""
    found, malformed = decode_events(msgpack.packb(items), len(items))
    assert len(found) + malformed == len(items)


@given(
    st.booleans(),
    st.integers(0, 4),
    msgpack_values | st.sampled_from([[], [1], float("inf"), 2**63, -1.0, "", "n" * 513, {"level": ""}, "text"]),
)
def test_one_odd_event_among_many_plain_ones(is_log: bool, field: int, odd: Any) -> None:
    """A batch is decoded by columns; what of it is allowed is the same as if each event were looked at."""
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
    """A batch of which any byte was changed is read, or refused with our error."""
    frames = [bytearray(batch.header_bytes), bytearray(batch.body)]
    frame = data.draw(st.sampled_from(frames))
    frame[data.draw(st.integers(0, len(frame) - 1))] = data.draw(st.integers(0, 255))
    try:
        changed = decode_batch(bytes(frames[0]), bytes(frames[1]))
        assert len(changed.events) + changed.malformed == changed.header.count
    except (MalformedBatchError, UnsupportedVersionError) as error:
        assert str(error)


@pytest.mark.parametrize("field", sorted(FIELDS))
def test_a_header_without_a_field_names_it(field: str) -> None:
    """A header that lacks a field is refused by its name."""
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
def test_a_wrong_field_is_refused(changes: dict[str, Any]) -> None:
    """A header with a field that it cannot have is refused, and the message names the field."""
    with pytest.raises(MalformedBatchError, match=next(iter(changes))):
        decode_header(with_fields(**changes))


def test_unknown_header_fields_and_channels_are_skipped() -> None:
    """A reader of this version reads a header with fields, flags and a channel that it does not know."""
    header = decode_header(with_fields(compression="none", channel="gradients", before={"gradients": 3}, urgent=True))
    assert header.channel == "gradients"
    assert not header.last


def test_an_event_with_more_fields_is_read() -> None:
    """An event to which a later version has added fields is read without them."""
    body = msgpack.packb([["a", 1.0, "scalar", 2.0, 3, "unit", {"later": True}]])
    assert decode_events(body, 1) == ((Event("a", 1.0, "scalar", 2.0, 3),), 0)


def test_unknown_types_and_lifecycle_names_are_read() -> None:
    """Events of types and lifecycle names of later versions are read, for their readers to skip."""
    sent = (Event("a", ("b", 1), "point_cloud", 2.0, 3), Event("moon/risen", {"full": True}, "lifecycle", 2.0, 3))
    assert decode_events(msgpack.packb(sent), 2) == (sent, 0)


def test_malformed_events_are_left_out_and_counted() -> None:
    """An event that is not allowed is left out; those around it are read."""
    good = ["a", 1.0, "scalar", 2.0, 3]
    bad: list[Any] = [
        ["a", "1.0", "scalar", 2.0, 3], ["", 1.0, "scalar", 2.0, 3], ["a", 1.0, "scalar", 2.0], {}, None, "event",
        [["a"], 1.0, "scalar", 2.0, 3], ["a", 1.0, "scalar", float("nan"), 3], ["a", 1.0, [], 2.0, 3],
    ]  # fmt: skip
    body = msgpack.packb([good, *bad, good])
    assert decode_events(body, len(bad) + 2) == ((Event(*good),) * 2, len(bad))


def test_a_body_with_another_count_is_malformed() -> None:
    """A body that does not hold as many events as its header says is refused."""
    batch = encode_batch(HEADER, [Event("a", 1.0, "scalar", 2.0, 3)])
    with pytest.raises(MalformedBatchError, match="no list of 3 events"):
        _ = batch.events


def test_a_newer_major_version_is_refused_with_what_to_install() -> None:
    """A header of a newer major version is refused, with a line that says what to install."""
    with pytest.raises(UnsupportedVersionError, match="pip install --upgrade trainwire"):
        decode_header(with_fields(version=VERSION + 1, seq="another meaning"))


def test_the_limits_of_headers_bodies_and_counts_hold() -> None:
    """A header, a body and a count are read at their limits and refused past them."""
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


def test_a_batch_that_no_reader_would_accept_is_not_encoded() -> None:
    """Encoding a body past the limit is refused, so that no journal holds it."""
    huge = Event("a", {"data": bytes(MAX_BODY_BYTES)}, "hparams", 1.0, 1)
    with pytest.raises(MalformedBatchError, match=f"at most {MAX_BODY_BYTES} are allowed"):
        encode_batch(replace(HEADER, count=1), [huge])


def test_the_limit_of_run_names_holds() -> None:
    """A run's name may have `MAX_RUN_BYTES` bytes of UTF-8, and no more."""
    assert is_run_name("ä" * (MAX_RUN_BYTES // 2))
    assert not is_run_name("ä" * (MAX_RUN_BYTES // 2) + "a")


def test_greedy_bytes_take_no_more_memory_than_the_limit() -> None:
    """A live message of the largest size, made to allocate as much as it can, takes less than 256 MiB."""
    tracemalloc.start()
    try:
        with pytest.raises(MalformedBatchError):
            unpack(GREEDY)
        assert tracemalloc.get_traced_memory()[1] < 256 << 20
    finally:
        tracemalloc.stop()
