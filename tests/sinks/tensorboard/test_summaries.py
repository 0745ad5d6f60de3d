from __future__ import annotations

import warnings
from html.parser import HTMLParser
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("tensorboard")

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # its dependencies are deprecated
    from tensorboard.plugin_util import markdown_to_safe_html

from trainwire_sinks.tensorboard.summaries import MAX_ROWS, markdown_table
from trainwire_sinks.text.format import plain


class Cells(HTMLParser):
    """Collects the rows of the tables of a page, and the tags inside cells."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.rows: list[list[str]] = []
        self.inside: set[str] = set()
        self._in_cell = False
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        if tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.rows[-1].append("")
            self._in_cell = True
        elif tag not in ("table", "thead", "tbody"):
            self.inside.add(tag)

    def handle_endtag(self, tag: str) -> None:
        self._in_cell &= tag not in ("td", "th")

    def handle_data(self, data: str) -> None:
        if self._in_cell:
            self.rows[-1][-1] += data


def shown(text: str) -> Cells:
    """Return a text as TensorBoard shows it."""
    return Cells(markdown_to_safe_html(text))


def squeezed(value: object) -> str:
    return " ".join(plain(value).split())


texts = st.text(st.characters(codec="utf-8") | st.sampled_from("|\\`*_[]()<>&!#-+.~ \n\x1b"), max_size=12)
cells = texts | st.integers() | st.floats() | st.none() | st.booleans()


@given(st.data(), st.lists(texts, min_size=1, max_size=4))
def test_a_table_shows_its_cells_literally(data: st.DataObject, columns: list[str]) -> None:
    """No text in a cell becomes markup, and no cell or row is lost."""
    row = st.lists(cells, min_size=len(columns), max_size=len(columns))
    rows = data.draw(st.lists(row, max_size=3))
    page = shown(markdown_table(columns, rows))
    if not rows:
        rows = [[""] * len(columns)]  # a Markdown table has at least one row
    expected = [[squeezed(cell) for cell in row] for row in [columns, *rows]]
    assert [[squeezed(cell) for cell in row] for row in page.rows] == expected
    assert not page.inside


def test_ragged_rows_keep_their_columns() -> None:
    """A short row is filled with empty cells, and cells beyond the columns are omitted."""
    page = shown(markdown_table(["a", "b"], [[1], [], [1, 2, 3]]))
    assert page.rows == [["a", "b"], ["1", ""], ["", ""], ["1", "2"]]


def test_a_long_table_is_shortened() -> None:
    """Rows past the limit are replaced by their number."""
    text = markdown_table(["n"], ([n] for n in range(MAX_ROWS + 5)))
    assert len(shown(text).rows) == MAX_ROWS + 1
    assert text.endswith("and 5 more rows")
