"""The decisions in docs/decisions are numbered."""

from __future__ import annotations

from support.paths import DOCS


def test_each_decision_has_the_number_of_its_file() -> None:
    """File names and headings begin with the same number, and the numbers are consecutive."""
    pages = sorted((DOCS / "decisions").glob("[0-9]*.md"))
    assert len(pages) > 10
    for number, page in enumerate(pages, start=1):
        assert page.name.startswith(f"{number:04}-")
        assert page.read_text().startswith(f"# {number}. ")
