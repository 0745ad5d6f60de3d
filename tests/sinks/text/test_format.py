from __future__ import annotations

from datetime import UTC, datetime

from hypothesis import example, given
from hypothesis import strategies as st

from trainwire_sinks.text.format import number, one_line, plain, timestamp, timestamps


@given(st.text())
def test_a_line_is_printable_whatever_the_text(text: str) -> None:
    """No line break and no escape sequence is left in any text."""
    assert one_line(text).isprintable()


def test_printable_text_is_unchanged() -> None:
    """Umlauts, other scripts and emoji are printable."""
    assert one_line("Größe 損失 🙂") == "Größe 損失 🙂"


def test_times_are_utc_with_offset() -> None:
    """A time is formatted in ISO 8601 with milliseconds and offset."""
    assert timestamp(1_767_355_200.25) == "2026-01-02T12:00:00.250+00:00"


@given(st.floats(0, 4e9) | st.floats(-1e12, 1e12) | st.integers(-(2**63), 2**64 - 1))
@example(1_767_355_199.9999996)
@example(-0.0000004)
def test_times_equal_those_of_datetime(walltime: float) -> None:
    """Every time that is a date is rounded and formatted as by `datetime`, and any other as a number."""
    try:
        expected = datetime.fromtimestamp(walltime, UTC).isoformat(" ", "milliseconds")
    except (ValueError, OverflowError, OSError):
        expected = f"@{walltime!r}"
    assert timestamp(walltime, separator=" ") == expected


near = st.floats(-2.5, 2.5) | st.integers(-5_000_000, 5_000_000).map(lambda half_microseconds: half_microseconds / 2e6)


@given(
    st.sampled_from([0.0, 1_767_355_199.0, 253_402_300_799.0]), st.lists(near | st.floats(-1e300, 1e300) | st.just(0))
)
@example(1_767_355_199.0, [0.5, 0.9999996, 0.9999994, 1.5])
def test_many_times_equal_single_ones(base: float, offsets: list[float]) -> None:
    """Consecutive times are formatted as each would be alone, also at the bounds of seconds."""
    walltimes = [base + offset for offset in offsets]
    assert list(timestamps(walltimes, " ")) == [timestamp(walltime, separator=" ") for walltime in walltimes]


def test_small_numbers_are_not_rounded_away() -> None:
    """A small learning rate keeps its digits."""
    assert number(5e-5) == "5e-05"
    assert plain({"lr": 5e-5, "none": None}) == '{"lr": 5e-05, "none": null}'
