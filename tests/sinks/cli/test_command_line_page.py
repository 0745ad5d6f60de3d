"""`docs/command-line.md` lists what the commands accept."""

from __future__ import annotations

import re

from support.paths import DOCS

from trainwire_protocol.commands import VERBS


def test_the_section_on_send_lists_the_verbs() -> None:
    """The table has a row for each verb, in the same order."""
    page = (DOCS / "command-line.md").read_text()
    section = page.partition("\n## trainwire send\n")[2].partition("\n## ")[0]
    assert tuple(re.findall(r"^\| `(\w+)", section, re.MULTILINE)) == VERBS
