"""The tests that docs/reliability.md names exist."""

from __future__ import annotations

import re

from support.paths import DOCS, ROOT, TESTS

PAGE = (DOCS / "reliability.md").read_text()


def test_every_row_names_tests_that_exist() -> None:
    """Each row of the table ends with the names of existing test files or make targets."""
    rows = [line.strip("| ").split(" | ") for line in PAGE.splitlines() if line.startswith("| ")][2:]
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert len(rows) > 20
    for fault, _, shown_by in rows:
        named = re.findall(r"`([^`]+)`", shown_by)
        assert named, fault
        for name in named:
            assert (TESTS / name).is_file() or name.removeprefix("make ") in targets, f"{fault}: {name}"
