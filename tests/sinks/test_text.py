from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from trainwire_sinks.text import number, one_line, plain, timestamp


@given(st.text())
def test_a_line_is_printable_whatever_the_text(text: str) -> None:
    """No text has a line break or an escape sequence left."""
    assert one_line(text).isprintable()


def test_printable_text_stays_as_it_is() -> None:
    """Umlauts, other scripts and emoji are printable."""
    assert one_line("Größe 損失 🙂") == "Größe 損失 🙂"


def test_times_are_utc_with_offset() -> None:
    """A walltime is written in ISO 8601 with milliseconds and offset."""
    assert timestamp(1_767_355_200.25) == "2026-01-02T12:00:00.250+00:00"


def test_small_numbers_stay_themselves() -> None:
    """A learning rate is not rounded to something else."""
    assert number(5e-5) == "5e-05"
    assert plain({"lr": 5e-5, "none": None}) == '{"lr": 5e-05, "none": null}'
