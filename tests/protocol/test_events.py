"""Valid and invalid events, and the messages about invalid ones."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.strategies import VALUES, events

from trainwire_protocol.errors import InvalidEventError
from trainwire_protocol.events import (
    EVENT_TYPES,
    LAST_EVENTS,
    LIFECYCLE_NAMES,
    MAX_NAME_BYTES,
    MAX_NESTING,
    MAX_STRING_BYTES,
    MAX_VALUE_BYTES,
    Event,
    are_plain_records,
    validate,
    validate_name,
    value_problem,
)

HISTOGRAM: Mapping[str, Any] = {
    "edges": [0.0, 1.0, 2.0], "counts": [3, 4], "min": 0.0, "max": 2.0, "sum": 7.0, "sum_squares": 9.0
}  # fmt: skip


def an_event(value: Any, kind: str = "hparams", name: str = "a/name", walltime: Any = 1.0, step: Any = 1) -> Event:
    return Event(name, value, kind, walltime, step)


def message_about(event: Event) -> str:
    with pytest.raises(InvalidEventError) as raised:
        validate(event)
    return str(raised.value)


def nested(levels: int) -> Any:
    return {} if levels == 1 else {"in": nested(levels - 1)}


@given(events())
def test_valid_events_are_returned(event: Event) -> None:
    """`validate` returns a valid event of any type unchanged."""
    assert validate(event) is event


def test_the_strategies_cover_every_type() -> None:
    """The property tests generate values of every type."""
    assert set(VALUES) == EVENT_TYPES


def test_last_events_are_lifecycle_names() -> None:
    """The names that end an attempt are among the lifecycle names."""
    assert LAST_EVENTS < LIFECYCLE_NAMES


def test_an_unknown_type_is_valid() -> None:
    """An event of an unknown type is valid if its value is plain."""
    validate(an_event({"points": [[0.0, 1.0], [2.0, None]], "__proto__": b"x"}, "point_cloud"))


@pytest.mark.parametrize("value", [{1: 2}, object(), {1.5}, 2**64, [[[[[[[[[]]]]]]]]]])
def test_a_value_of_an_unknown_type_must_be_plain(value: object) -> None:
    """A value of an unknown type keeps to the limits of all values, so that every reader can copy it."""
    with pytest.raises(InvalidEventError, match="point_cloud"):
        validate(an_event(value, "point_cloud"))


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 0, -(2**63), 2**64 - 1])
def test_any_number_is_a_scalar(value: float) -> None:
    """NaN, the infinities and all 64-bit integers are scalars."""
    validate(an_event(value, "scalar"))


@pytest.mark.parametrize(
    ("value", "kind", "problem"),
    [
        ("0.1", "scalar", "the value is '0.1', not a number"),
        (True, "scalar", "the value is True, not a number"),
        (None, "scalar", "the value is None, not a number"),
        (2**64, "scalar", "not a number"),
        ([1.0, "2"], "scalars", "'2' is not a number"),
        ({"a": None}, "scalars", "None is not a number"),
        ({1: 1.0}, "scalars", "a label is 1, not a string"),
        ("12", "scalars", "neither a list of numbers nor a map"),
        (b"text", "text", "not a string"),
        ("\ud800", "text", "cannot be encoded as UTF-8"),
        ([], "histogram", "not a map"),
        ({**HISTOGRAM, "edges": 1}, "histogram", "edges and counts must be lists of numbers"),
        ({**HISTOGRAM, "counts": [1, "2"]}, "histogram", "edges and counts must be lists of numbers"),
        ({**HISTOGRAM, "counts": [1]}, "histogram", "1 counts need 2 edges, not 3"),
        ({**HISTOGRAM, "edges": [0.0, 2.0, 1.0]}, "histogram", "the edges must be in ascending order"),
        ({**HISTOGRAM, "edges": [0.0, math.nan, 1.0]}, "histogram", "the edges must be in ascending order"),
        ({**HISTOGRAM, "sum": None}, "histogram", "sum is not a number"),
        ({**HISTOGRAM, "unit": object()}, "histogram", "is not a plain value"),
        ("png", "image", "not a map of data and format"),
        ({"data": "text", "format": "png"}, "image", "data must be the encoded bytes"),
        ({"data": b"", "format": "png"}, "image", "data must be the encoded bytes"),
        ({"data": b"1", "format": None}, "audio", "format must be a string"),
        ({"data": b"1", "format": "wav", "rate": {1}}, "audio", "{1} is not a plain value"),
        (b"", "summary", "not a map of format, plugin and data"),
        ({"format": "summary", "data": "text"}, "summary", "data must be bytes"),
        ({"data": b""}, "summary", "format must be a string"),
        ({"data": b"", "format": ""}, "summary", "format must be a string"),
        ({"data": b"", "format": 5}, "summary", "format must be a string"),
        ({"data": b"", "format": "file", "path": None}, "summary", "path must be a string"),
        ({"data": b"", "format": "file", "path": "a", "offset": -1}, "summary", "offset is -1, not a position"),
        ({"data": b"", "format": "summary", "curve": {1}}, "summary", "{1} is not a plain value"),
        ({"columns": "ab", "rows": []}, "table", "columns must be a list of strings"),
        ({"columns": [1], "rows": []}, "table", "columns must be a list of strings"),
        ({"columns": ["a"], "rows": ["b"]}, "table", "rows must be a list of lists"),
        ({"columns": ["a"], "rows": [[1], [1, 2]]}, "table", "row 1 has 2 cells for 1 columns"),
        (1, "hparams", "the value is 1, not a map"),
        ({1: 2}, "hparams", "a key of a map is not a string"),
        ({"a": 1j}, "hparams", "1j is not a plain value"),
        ({"a": [2**64]}, "hparams", "is not a plain value"),
        ({"a": "\udfff"}, "hparams", "cannot be encoded as UTF-8"),
        ("said", "log", "not a map"),
        ({"level": "INFO", "logger": "a", "message": 1}, "log", "message is not a string"),
        ({"level": "INFO", "logger": "a"}, "log", "message is not a string"),
        ({"level": "INFO", "logger": "a", "message": "\ud800"}, "log", "cannot be encoded as UTF-8"),
        ([], "lifecycle", "not a map"),
    ],
)
def test_an_invalid_value_is_rejected(value: Any, kind: str, problem: str) -> None:
    """The message about an invalid value contains the event's name, its type and the reason."""
    message = message_about(an_event(value, kind))
    assert message.startswith(f"event 'a/name' of type {kind}: ")
    assert problem in message


@pytest.mark.parametrize("name", ["", None, 1, b"train/loss", "\ud800", "a" * (MAX_NAME_BYTES + 1)])
def test_an_invalid_name_is_rejected(name: Any) -> None:
    """A name must be a non-empty string that can be encoded and is not too long."""
    with pytest.raises(InvalidEventError):
        validate_name(name)


@pytest.mark.parametrize("walltime", [None, "1", math.nan, math.inf, True])
def test_an_invalid_walltime_is_rejected(walltime: Any) -> None:
    """A walltime must be a finite number."""
    assert "walltime" in message_about(an_event({}, walltime=walltime))


@pytest.mark.parametrize("step", [None, 1.0, True, 2**63, -(2**63) - 1])
def test_an_invalid_step_is_rejected(step: Any) -> None:
    """A step must be a 64-bit integer."""
    assert "step" in message_about(an_event({}, step=step))


@pytest.mark.parametrize("kind", [None, 1, "\ud800"])
def test_an_invalid_type_is_rejected(kind: Any) -> None:
    """A type must be a string that can be encoded."""
    assert "type" in message_about(an_event({}, kind))


@pytest.mark.parametrize("letter", ["a", "ä", "😀"])
def test_the_limit_of_names_counts_bytes(letter: str) -> None:
    """A name may have at most `MAX_NAME_BYTES` bytes of UTF-8."""
    longest = letter * (MAX_NAME_BYTES // len(letter.encode()))
    validate_name(longest)
    with pytest.raises(InvalidEventError, match="at most 512 are allowed"):
        validate_name(longest + letter)


@pytest.mark.parametrize(
    "place", [lambda text: (text, "text"), lambda text: ({"a": [text]}, "hparams"), lambda text: ({text: 1}, "scalars")]
)
def test_the_limit_of_strings(place: Any) -> None:
    """A string may have at most `MAX_STRING_BYTES`, anywhere in a value."""
    validate(an_event(*place("a" * MAX_STRING_BYTES)))
    assert f"at most {MAX_STRING_BYTES} are allowed" in message_about(an_event(*place("a" * (MAX_STRING_BYTES + 1))))


def test_the_limit_of_nesting() -> None:
    """Lists and maps may be nested at most `MAX_NESTING` levels deep; a list that contains itself is invalid."""
    validate(an_event(nested(MAX_NESTING)))
    assert f"more than {MAX_NESTING} levels deep" in message_about(an_event(nested(MAX_NESTING + 1)))
    endless: list[Any] = []
    endless.append(endless)
    message_about(an_event({"a": endless}))


def test_the_limit_of_media() -> None:
    """An image may have at most `MAX_VALUE_BYTES` bytes."""
    validate(an_event({"data": bytes(MAX_VALUE_BYTES), "format": "png"}, "image"))
    message = message_about(an_event({"data": bytes(MAX_VALUE_BYTES + 1), "format": "png"}, "image"))
    assert f"at most {MAX_VALUE_BYTES} are allowed" in message


@given(st.builds(Event, *[st.from_type(object)] * 5))
def test_any_event_is_valid_or_rejected(event: Event) -> None:
    """Whatever the five fields contain, the event is valid or our own error is raised."""
    try:
        validate(event)
    except InvalidEventError as error:
        assert str(error)


def test_a_message_about_a_value_without_a_repr() -> None:
    """A `repr` that fails or is long makes the message neither fail nor long."""

    class Unshowable:
        def __repr__(self) -> str:
            raise RuntimeError

    assert "<Unshowable>" in message_about(an_event({"a": Unshowable()}))
    assert len(message_about(an_event({"a": {*range(10_000)}}))) < 200


RECORD = {"level": "INFO", "logger": "my.module", "message": "hello"}
odd_records = st.sampled_from([{}, {"message": 1}, {"level": None}, {"more": "x"}, {"more": b"x"}, {"a": ["b"]}])


@given(
    st.lists(odd_records.map(RECORD.__or__) | odd_records | st.sampled_from([None, 1, "a", ("a",), b"a"]), max_size=4)
)
def test_records_that_are_valid_together_are_valid_alone(values: list[Any]) -> None:
    """Checking log records together accepts none that checking each would reject."""
    if are_plain_records(values):
        assert [value_problem("log", value) for value in values] == [None] * len(values)


def test_records_of_strings_are_plain() -> None:
    """Records of strings are plain, whatever other fields they have."""
    assert are_plain_records([RECORD, RECORD | {"exception": "é", "source": "a.py:1"}])
    assert not are_plain_records([RECORD, RECORD | {"source": 1}])
    assert not are_plain_records([RECORD, RECORD | {"message": "x" * (MAX_STRING_BYTES + 1)}])
