"""docs/reliability.md names tests that are there."""

from __future__ import annotations

import re
from pathlib import Path

TESTS = Path(__file__).parents[1]
PAGE = (TESTS.parent / "docs" / "reliability.md").read_text()


def test_every_promise_names_a_test_that_is_there() -> None:
    """Each row of the table ends with test files that exist, or with a target of make that does."""
    rows = [line.strip("| ").split(" | ") for line in PAGE.splitlines() if line.startswith("| ")][2:]
    targets = re.findall(r"^([a-z-]+):", (TESTS.parent / "Makefile").read_text(), re.MULTILINE)
    assert len(rows) > 20
    for fault, _, shown_by in rows:
        named = re.findall(r"`([^`]+)`", shown_by)
        assert named, fault
        for name in named:
            assert (TESTS / name).is_file() or name.removeprefix("make ") in targets, f"{fault}: {name}"
