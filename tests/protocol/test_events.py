"""What an event can be, and what the message says about one that it cannot be."""

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


def refusal(event: Event) -> str:
    with pytest.raises(InvalidEventError) as refused:
        validate(event)
    return str(refused.value)


def nested(levels: int) -> Any:
    return {} if levels == 1 else {"in": nested(levels - 1)}


@given(events())
def test_allowed_values_of_every_type_pass(event: Event) -> None:
    """An event with a value of its type passes, unchanged."""
    assert validate(event) is event


def test_the_strategies_know_every_type() -> None:
    """The property tests make values of every type that there is."""
    assert set(VALUES) == EVENT_TYPES


def test_last_events_are_lifecycle_names() -> None:
    """The names that end an attempt are among the lifecycle names."""
    assert LAST_EVENTS < LIFECYCLE_NAMES


def test_a_later_versions_type_passes() -> None:
    """An event of a type that this version does not know is allowed, whatever its value is."""
    validate(an_event({1: object()}, "point_cloud"))


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 0, -(2**63), 2**64 - 1])
def test_any_number_is_a_scalar(value: float) -> None:
    """NaN, the infinities and all 64-bit integers are scalars."""
    validate(an_event(value, "scalar"))


@pytest.mark.parametrize(
    ("value", "kind", "said"),
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
        ({**HISTOGRAM, "edges": 1}, "histogram", "edges and counts have to be lists of numbers"),
        ({**HISTOGRAM, "counts": [1, "2"]}, "histogram", "edges and counts have to be lists of numbers"),
        ({**HISTOGRAM, "counts": [1]}, "histogram", "1 counts need 2 edges, not 3"),
        ({**HISTOGRAM, "edges": [0.0, 2.0, 1.0]}, "histogram", "the edges have to rise"),
        ({**HISTOGRAM, "edges": [0.0, math.nan, 1.0]}, "histogram", "the edges have to rise"),
        ({**HISTOGRAM, "sum": None}, "histogram", "sum is not a number"),
        ({**HISTOGRAM, "unit": object()}, "histogram", "is not a plain value"),
        ("png", "image", "not a map of data and format"),
        ({"data": "text", "format": "png"}, "image", "data has to be the encoded bytes"),
        ({"data": b"", "format": "png"}, "image", "data has to be the encoded bytes"),
        ({"data": b"1", "format": None}, "audio", "format has to be a string"),
        ({"data": b"1", "format": "wav", "rate": {1}}, "audio", "{1} is not a plain value"),
        ({"columns": "ab", "rows": []}, "table", "columns has to be a list of strings"),
        ({"columns": [1], "rows": []}, "table", "columns has to be a list of strings"),
        ({"columns": ["a"], "rows": ["b"]}, "table", "rows has to be a list of lists"),
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
def test_a_value_that_its_type_cannot_have_is_named(value: Any, kind: str, said: str) -> None:
    """A value that an event of its type cannot have is refused, with the event's name, its type and the reason."""
    message = refusal(an_event(value, kind))
    assert message.startswith(f"event 'a/name' of type {kind}: ")
    assert said in message


@pytest.mark.parametrize("name", ["", None, 1, b"train/loss", "\ud800", "a" * (MAX_NAME_BYTES + 1)])
def test_a_name_that_cannot_be_is_refused(name: Any) -> None:
    """A name is a non-empty string that can be encoded and is not too long."""
    with pytest.raises(InvalidEventError):
        validate_name(name)


@pytest.mark.parametrize("walltime", [None, "1", math.nan, math.inf, True])
def test_a_walltime_that_is_no_moment_is_refused(walltime: Any) -> None:
    """A walltime is a finite number of seconds."""
    assert "walltime" in refusal(an_event({}, walltime=walltime))


@pytest.mark.parametrize("step", [None, 1.0, True, 2**63, -(2**63) - 1])
def test_a_step_that_is_no_integer_is_refused(step: Any) -> None:
    """A step is a 64-bit integer."""
    assert "step" in refusal(an_event({}, step=step))


@pytest.mark.parametrize("kind", [None, 1, "\ud800"])
def test_a_type_that_is_no_string_is_refused(kind: Any) -> None:
    """A type is a string that can be encoded."""
    assert "type" in refusal(an_event({}, kind))


@pytest.mark.parametrize("letter", ["a", "ä", "😀"])
def test_the_limit_of_names_counts_bytes(letter: str) -> None:
    """A name may have `MAX_NAME_BYTES` bytes of UTF-8, and no more."""
    longest = letter * (MAX_NAME_BYTES // len(letter.encode()))
    validate_name(longest)
    with pytest.raises(InvalidEventError, match="at most 512 are allowed"):
        validate_name(longest + letter)


@pytest.mark.parametrize(
    "place", [lambda text: (text, "text"), lambda text: ({"a": [text]}, "hparams"), lambda text: ({text: 1}, "scalars")]
)
def test_the_limit_of_strings_holds_everywhere(place: Any) -> None:
    """A string of `MAX_STRING_BYTES` is allowed anywhere in a value, a longer one nowhere."""
    validate(an_event(*place("a" * MAX_STRING_BYTES)))
    assert f"at most {MAX_STRING_BYTES} are allowed" in refusal(an_event(*place("a" * (MAX_STRING_BYTES + 1))))


def test_the_limit_of_nesting_holds() -> None:
    """Lists and maps may be nested `MAX_NESTING` levels deep, and no deeper; a list within itself is refused too."""
    validate(an_event(nested(MAX_NESTING)))
    assert f"more than {MAX_NESTING} levels deep" in refusal(an_event(nested(MAX_NESTING + 1)))
    endless: list[Any] = []
    endless.append(endless)
    refusal(an_event({"a": endless}))


def test_the_limit_of_media_holds() -> None:
    """An image may have `MAX_VALUE_BYTES` bytes, and no more."""
    validate(an_event({"data": bytes(MAX_VALUE_BYTES), "format": "png"}, "image"))
    message = refusal(an_event({"data": bytes(MAX_VALUE_BYTES + 1), "format": "png"}, "image"))
    assert f"at most {MAX_VALUE_BYTES} are allowed" in message


@given(st.builds(Event, *[st.from_type(object)] * 5))
def test_anything_at_all_passes_or_is_refused(event: Event) -> None:
    """Whatever the five fields hold, they are allowed or refused with our own error."""
    try:
        validate(event)
    except InvalidEventError as error:
        assert str(error)


def test_a_message_survives_a_value_that_cannot_be_shown() -> None:
    """A value whose repr fails or is long neither breaks the message nor fills it."""

    class Unshowable:
        def __repr__(self) -> str:
            raise RuntimeError

    assert "<Unshowable>" in refusal(an_event({"a": Unshowable()}))
    assert len(refusal(an_event({"a": {*range(10_000)}}))) < 200


RECORD = {"level": "INFO", "logger": "my.module", "message": "hello"}
odd_records = st.sampled_from([{}, {"message": 1}, {"level": None}, {"more": "x"}, {"more": b"x"}, {"a": ["b"]}])


@given(
    st.lists(odd_records.map(RECORD.__or__) | odd_records | st.sampled_from([None, 1, "a", ("a",), b"a"]), max_size=4)
)
def test_records_that_are_plain_together_are_allowed_alone(values: list[Any]) -> None:
    """A look at many log records at once lets nothing through that a look at each would not."""
    if are_plain_records(values):
        assert [value_problem("log", value) for value in values] == [None] * len(values)


def test_records_of_strings_are_plain() -> None:
    """Records of nothing but strings are known as such at once, whatever further fields they have."""
    assert are_plain_records([RECORD, RECORD | {"exception": "é", "source": "a.py:1"}])
    assert not are_plain_records([RECORD, RECORD | {"source": 1}])
    assert not are_plain_records([RECORD, RECORD | {"message": "x" * (MAX_STRING_BYTES + 1)}])
